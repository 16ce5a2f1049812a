"""What is converted from GGUF once comes back the same, or not at all."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from huggingface_hub import constants

from mi_toolkit.atlas.folder import protocol_of
from mi_toolkit.cli.options import LoadOptions
from mi_toolkit.core.model import HookedModel
from mi_toolkit.models import gguf_cache
from mi_toolkit.models.gguf_cache import converted
from mi_toolkit.models.load import load_model
from mi_toolkit.models.sources import find_source
from tests.gguf_made import write_tiny_gguf

TEXT = "hello wörld,  the capital <|endoftext|> of France"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    return gguf_cache.cache_folder()


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The paths whose header was parsed, one for each time."""
    paths: list[Any] = []

    class Counting(gguf.GGUFReader):  # type: ignore[misc]
        def __init__(self, path: Any, *rest: Any) -> None:
            paths.append(path)
            super().__init__(path, *rest)

    monkeypatch.setattr(gguf, "GGUFReader", Counting)
    yield paths
    assert gguf.GGUFReader is Counting, "a load leaves gguf as it was"


def same(one: HookedModel, other: HookedModel) -> bool:
    """Whether two models have the same weights, bit for bit, and read a text the same way."""
    state, again = (each.original_model.state_dict() for each in (one, other))  # type: ignore[attr-defined]
    return (
        state.keys() == again.keys()
        and all(torch.equal(state[name], again[name]) for name in state)
        and one.tokenizer.encode(TEXT) == other.tokenizer.encode(TEXT)
        and one.tokenizer.special_tokens_map == other.tokenizer.special_tokens_map
    )


def entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_second_load_is_the_first_bit_for_bit_and_opens_no_gguf(
    file: Path, folder: Path, parsed: list[Any], dtype: str
) -> None:
    plain = load_model(file, dtype=dtype, cache=False)
    assert entries(folder) == []
    parsed.clear()
    first = load_model(file, dtype=dtype)
    assert len(parsed) == 1
    assert [path.name.rpartition("-")[0] for path in entries(folder)] == [f"tiny-{dtype}"]
    second = load_model(file, dtype=dtype)
    assert len(parsed) == 1
    load_model(file, dtype=dtype, cache=False)
    assert len(parsed) == 2, "without the cache nothing is read there either"
    assert same(plain, first)
    assert same(first, second)
    ids = torch.tensor([[0, 5, 7, 9]])
    logits = [model(ids) for model in (first, second)]  # type: ignore[operator]
    assert torch.equal(*logits)


def test_a_damaged_entry_is_converted_again(file: Path, folder: Path, parsed: list[Any]) -> None:
    first = load_model(file)
    (entry,) = entries(folder)
    whole = shutil.copytree(entry, folder.parent / "whole")
    source = find_source(file)
    for damage in (truncate, flip_one_bit, lose_the_tokenizer, lose_the_record):
        shutil.copytree(whole, entry, dirs_exist_ok=True)
        assert converted(source, torch.float32).location == str(entry)
        damage(entry)
        assert converted(source, torch.float32) is source, damage.__name__
        assert not entry.exists()
    shutil.copytree(whole, entry)
    truncate(entry)
    parsed.clear()
    assert same(first, load_model(file))
    assert len(parsed) == 1
    assert converted(source, torch.float32).location == str(entry), "it is whole again"


def truncate(entry: Path) -> None:
    weights = entry / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def flip_one_bit(entry: Path) -> None:
    weights = entry / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1000] ^= 1
    weights.write_bytes(content)


def lose_the_tokenizer(entry: Path) -> None:
    (entry / "tokenizer.json").unlink()


def lose_the_record(entry: Path) -> None:
    (entry / "converted.json").unlink()


def test_a_file_with_other_content_has_an_entry_of_its_own(tmp_path: Path, folder: Path) -> None:
    """Also under the same name: the content counts."""
    file = write_tiny_gguf(tmp_path / "tiny.gguf")
    first = load_model(file)
    write_tiny_gguf(file, scale=2.0)
    other = load_model(file)
    assert not same(first, other)
    assert same(other, load_model(file, cache=False))
    assert len(entries(folder)) == 2


def test_a_cache_that_cannot_be_written_costs_a_line_and_nothing_else(
    file: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.parent.parent.mkdir(parents=True)
    folder.parent.touch()  # a file where the folder would be: nobody can write there, not even root
    with caplog.at_level(logging.WARNING, "mi_toolkit"):
        model = load_model(file)
    (record,) = caplog.records
    assert "could not be kept in" in record.getMessage()
    assert str(folder) in record.getMessage()
    assert same(model, load_model(file, cache=False))


def test_what_would_come_back_different_is_not_kept(
    file: Path, folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def less_precise(tensors: dict[str, torch.Tensor], *rest: Any, **options: Any) -> None:
        halved = {name: tensor.bfloat16() for name, tensor in tensors.items()}
        save_file(halved, *rest, **options)

    save_file = gguf_cache.save_file
    monkeypatch.setattr(gguf_cache, "save_file", less_precise)
    with caplog.at_level(logging.WARNING, "mi_toolkit"):
        load_model(file)
    assert "the weights of the GGUF file would not come back the same" in caplog.text
    assert entries(folder) == []


def test_an_interrupted_conversion_leaves_nothing(
    file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf_cache, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_model(file)
    assert entries(folder) == []


def test_no_cache_on_the_command_line_reaches_load_model() -> None:
    """As does every other option, and it changes no digest of an atlas."""
    asked = LoadOptions(no_cache=True).arguments()
    assert asked["cache"] is False
    assert LoadOptions().arguments()["cache"] is True
    assert len(asked) == len(dataclasses.fields(LoadOptions))
    inspect.signature(load_model).bind("toy-gpt2", **asked)
    one, other = (
        protocol_of(
            min_lift=0.3,
            weighting="prompts",
            seed=0,
            load=options.arguments(),
            headvis=False,
        )
        for options in (LoadOptions(), LoadOptions(no_cache=True))
    )
    assert one == other


@pytest.mark.slow
@pytest.mark.smollm2
def test_smollm2_comes_back_from_the_cache_bit_for_bit(folder: Path, parsed: list[Any]) -> None:
    """Tied embeddings, and two kinds of blocks."""
    first = load_model("smollm2")
    second = load_model("smollm2")
    assert len(parsed) == 1
    assert same(first, second)
    kept = (entries(folder)[0] / "model.safetensors").stat().st_size
    assert kept == pytest.approx(4 * 134.5e6, rel=0.01), "the tied embedding is there once"
