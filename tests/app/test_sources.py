"""What visitors name is of the hub or of the package, never a place on the server's disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from huggingface_hub.file_download import DryRunFileInfo

from mi_toolkit.app import model_pool
from mi_toolkit.app.model_pool import VisitorModels
from mi_toolkit.app.settings import Settings
from mi_toolkit.core.errors import MIToolkitError, ModelLoadError
from mi_toolkit.models.sources import bundled_folder
from tests.hub_cache import hub_config, lay_out, shrunk
from tests.models_here import loaded

SMALL = {**shrunk(hub_config("gpt2")), "vocab_size": 1024}


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and a working directory next to it."""
    cache, here = tmp_path / "hub", tmp_path / "here"
    cache.mkdir()
    here.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.chdir(here)
    return cache


def a_folder(here: Path) -> str:
    (here / "models").mkdir()
    (here / "models/private").symlink_to(bundled_folder("toy-gpt2"))
    return "models/private"


def a_real_folder(here: Path) -> str:
    shutil.copytree(bundled_folder("toy-gpt2"), here / "models/private")
    return "models/private"


def a_gguf(here: Path) -> str:
    (here / "models").mkdir()
    (here / "models/secret.gguf").write_bytes(b"GGUF")
    return "models/secret.gguf"


def a_link_of_two_parts(here: Path) -> str:
    (here / "link").symlink_to(bundled_folder("toy-gpt2").parent)
    return "link/toy-gpt2"


def a_place_in_the_cache(here: Path) -> str:
    snapshot = lay_out(here / "hub", "some/model", SMALL, tokenizer())
    (here / "x").symlink_to(snapshot.parent)
    return f"x/{snapshot.name}"


def tokenizer() -> Any:
    return loaded("toy-gpt2").tokenizer


@pytest.mark.parametrize(
    "made", [a_folder, a_real_folder, a_gguf, a_link_of_two_parts, a_place_in_the_cache]
)
@pytest.mark.parametrize("public", [False, True])
def test_a_path_of_two_parts_is_never_a_place_on_the_disk(
    hub_cache: Path, made: Any, *, public: bool
) -> None:
    typed = made(Path.cwd())
    assert Path(typed).exists()
    settings = Settings(public=public, allow_hub=public)
    models = VisitorModels(settings)

    def ask(name: str, work: Any) -> str:
        with pytest.raises(MIToolkitError) as refused:
            work(settings.model_named(name))
        return str(refused.value)

    for work in (models.load, models.size):
        told = ask(typed, work)
        assert str(Path.cwd()) not in told
        assert str(hub_cache) not in told
        # Nor does the answer say whether something is there.
        absent = typed.replace(Path(typed).name, "absent" + Path(typed).suffix)
        assert ask(absent, work).replace(absent, typed) == told


def test_a_folder_that_is_called_like_a_model_of_the_cache_is_not_read(hub_cache: Path) -> None:
    lay_out(hub_cache, "some/model", SMALL, tokenizer())
    Path("some").mkdir()
    Path("some/model").symlink_to(bundled_folder("toy-gpt2"))
    model = VisitorModels(Settings()).load("some/model")
    assert model.cfg.d_model == 32
    assert model.cfg.model_name == "some/model"


def test_a_known_model_is_read_from_the_cache_whatever_lies_next_to_the_server(
    hub_cache: Path,
) -> None:
    lay_out(hub_cache, "gpt2", SMALL, tokenizer())
    Path("gpt2").symlink_to(bundled_folder("toy-gpt2"))
    models = VisitorModels(Settings())
    assert models.load("gpt2").cfg.d_model == 32
    assert 0 < models.size("gpt2") < 2**20


def test_an_adapter_of_the_hub_leads_to_no_folder(hub_cache: Path) -> None:
    snapshot = lay_out(hub_cache, "some/adapter", SMALL, tokenizer())
    (snapshot / "adapter_config.json").write_text('{"base_model_name_or_path": "models/private"}')
    with pytest.raises(ModelLoadError, match="adapter: this page loads whole models"):
        VisitorModels(Settings()).load("some/adapter")


def test_what_does_not_load_does_not_say_where_it_lies(hub_cache: Path) -> None:
    snapshot = lay_out(hub_cache, "some/model", SMALL, tokenizer())
    (snapshot / "config.json").write_text("{}")
    with pytest.raises(ModelLoadError) as refused:
        VisitorModels(Settings()).load("some/model")
    assert str(hub_cache) not in str(refused.value)


def test_a_public_server_loads_what_is_here_and_nothing_else(hub_cache: Path) -> None:
    lay_out(hub_cache, "EleutherAI/pythia-160m", SMALL, tokenizer())
    lay_out(hub_cache, "the-operators/own", SMALL, tokenizer())
    settings = Settings(public=True)
    assert {"toy-gpt2", "EleutherAI/pythia-160m"} <= set(settings.offered)
    assert "gpt2" not in settings.offered
    for other in ("gpt2", "the-operators/own", "nobody/nothing"):
        with pytest.raises(MIToolkitError, match="This server loads only: "):
            settings.model_named(other)


def test_a_public_server_reads_no_folders_for_visitors() -> None:
    with pytest.raises(ModelLoadError, match="leave --allow-local out"):
        Settings(public=True, allow_local=True)
    assert Settings(public=True, allow_models=("./own",)).model_named("./own") == "./own"


Hub = list[dict[str, Any]]


@pytest.fixture
def hub(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A hub with one model of a gibibyte; every question that it was asked."""
    asked: Hub = []

    def answer(name: str, **options: Any) -> Any:
        asked.append({"name": name, **options})
        if not options.get("dry_run"):
            return str(lay_out(hub_cache, name, SMALL, tokenizer()))
        files = {
            "config.json": 700,
            "model.safetensors": 2**30,
            "pytorch_model.bin": 2**30,
            "onnx/model.safetensors": 2**40,
        }
        return [
            DryRunFileInfo("c" * 40, size, each, os.devnull, is_cached=False, will_download=True)
            for each, size in files.items()
        ]

    monkeypatch.setattr(model_pool, "snapshot_download", answer)
    return asked


def test_a_download_is_measured_before_it_begins(hub: Hub) -> None:
    small = Settings(public=True, allow_hub=True, max_model_bytes=2**29)
    with pytest.raises(ModelLoadError, match=r"is a download of 1\.0 GiB; this server takes"):
        VisitorModels(small).load("some/model")
    full = Settings(public=True, allow_hub=True, disk=2**29)
    with pytest.raises(ModelLoadError, match=r"no room for it among the 512 MiB"):
        VisitorModels(full).load("some/model")
    assert [each.get("dry_run") for each in hub] == [True, True]


@pytest.mark.parametrize(
    ("settings", "token"),
    [
        (Settings(), None),
        (Settings(public=True, allow_hub=True), False),
        (Settings(public=True, allow_hub=True, lend_token=True), None),
    ],
)
def test_strangers_are_not_lent_the_token_unless_it_is_said_so(
    hub: Hub, settings: Settings, token: bool | None
) -> None:
    assert VisitorModels(settings).load("some/model").cfg.d_model == 32
    assert [each["token"] for each in hub] == [token, token]
    assert hub[1]["allow_patterns"] == ["config.json", "model.safetensors"]
    assert hub[1]["revision"] == "c" * 40


def test_nothing_is_downloaded_on_a_visitors_word_alone(hub: Hub) -> None:
    settings = Settings(public=True, allow_models=("some/model",))
    assert settings.model_named("some/model") == "some/model"  # that is the operator's word
    with pytest.raises(ModelLoadError, match="downloads nothing for visitors"):
        VisitorModels(Settings(public=True)).load("some/model")
    assert hub == []
