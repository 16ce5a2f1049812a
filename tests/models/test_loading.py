"""What `load_model` hands back, from a folder, a file, or a model in memory."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mi_toolkit.models.describe import describe_model
from mi_toolkit.models.load import load_model
from mi_toolkit.models.specs import BUNDLED
from tests.tiny_models import tiny_model, tiny_tokenizer

TOKENS = torch.tensor([[0, 17, 4, 261, 8, 17, 4, 99]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that `save_pretrained` wrote, in float16."""
    path = tmp_path_factory.mktemp("saved") / "tiny-qwen"
    tiny_model("qwen2").half().save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def test_a_folder_loads_as_a_path_or_a_string_with_hugging_faces_logits(folder: Path) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    for given in (folder, str(folder)):
        model: Any = load_model(given)
        torch.testing.assert_close(model(TOKENS), theirs(TOKENS).logits)
        assert model.cfg.model_name == str(folder)


def test_a_loaded_model_is_in_eval_mode_without_gradients_on_the_cpu(folder: Path) -> None:
    model: Any = load_model(folder, device="cpu")
    assert not any(module.training for module in model.modules())
    assert not any(weight.requires_grad for weight in model.parameters())
    assert {weight.device.type for weight in model.parameters()} == {"cpu"}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", torch.bfloat16])
def test_the_weights_have_the_dtype_asked_for(folder: Path, dtype: str | torch.dtype) -> None:
    model: Any = load_model(folder, dtype=dtype)
    wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    assert {weight.dtype for weight in model.parameters()} == {wanted}
    assert model.cfg.dtype == wanted
    assert describe_model(model).dtype == str(wanted).removeprefix("torch.")


def test_weights_are_raw_nothing_is_folded_or_centred(folder: Path) -> None:
    stored = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    model: Any = load_model(folder, dtype="float16")
    held = {
        name.replace("._original_component", ""): weight
        for name, weight in model.original_model.named_parameters()
    }
    assert all(torch.equal(held[name], weight) for name, weight in stored.items())


def test_loading_leaves_the_process_as_it_was(folder: Path) -> None:
    """In a process of its own, whose root logger nobody has configured yet.

    From the second load on: importing TransformerLens sets the level of transformers' logger.
    """
    code = (
        "import logging, warnings, torch\n"
        "from transformers.utils import logging as theirs\n"
        "from mi_toolkit import load_model\n"
        "def state():\n"
        "    return (warnings.filters[:], torch.is_grad_enabled(), torch.initial_seed(),\n"
        "            theirs.is_progress_bar_enabled(), theirs.get_verbosity())\n"
        f"load_model({str(folder)!r})\n"
        "before = state()\n"
        f"load_model({str(folder)!r})\n"
        "assert state() == before\n"
        "assert logging.root.handlers == []\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", ["opt", "neo", "mistral-7b", "gpt2"])
def test_a_model_in_memory_keeps_the_name_it_is_given(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """TransformerLens would take `opt` for a deprecated alias, warn, and call it otherwise."""
    model: Any = load_model(name, hf_model=tiny_model("qwen3"), tokenizer=tiny_tokenizer())
    assert model.cfg.model_name in {name, "mistralai/Mistral-7B-v0.1"}
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_model_in_memory_is_taken_over_in_its_own_dtype() -> None:
    theirs = tiny_model("qwen2").to(torch.bfloat16).train()
    model: Any = load_model("mine", hf_model=theirs, tokenizer=tiny_tokenizer())
    assert model.original_model is theirs
    assert {weight.dtype for weight in theirs.parameters()} == {torch.bfloat16}
    assert not theirs.training


def test_a_model_in_memory_becomes_eager_so_that_its_patterns_show() -> None:
    theirs = tiny_model("qwen2")
    theirs.set_attn_implementation("sdpa")
    load_model("mine", hf_model=theirs, tokenizer=tiny_tokenizer())
    assert theirs.config._attn_implementation == "eager"


def test_the_tokenizer_of_a_model_read_from_a_folder_is_found_there(folder: Path) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    model: Any = load_model("mine", hf_model=theirs)
    assert model.tokenizer.get_vocab() == AutoTokenizer.from_pretrained(folder).get_vocab()


def test_the_callers_tokenizer_is_copied_and_left_as_it_was() -> None:
    mine = tiny_tokenizer(bos=False)
    before = (mine.bos_token, mine.pad_token, dict(mine.init_kwargs), mine.padding_side)
    model: Any = load_model("mine", hf_model=tiny_model("qwen2"), tokenizer=mine)
    assert (mine.bos_token, mine.pad_token, dict(mine.init_kwargs), mine.padding_side) == before
    assert model.tokenizer is not mine
    assert "add_bos_token" not in model.tokenizer.init_kwargs


@pytest.mark.parametrize("prepends", [True, False])
def test_a_bos_is_prepended_exactly_when_asked_for(prepends: bool) -> None:
    """Whether or not the tokenizer prepends one by itself."""
    tokenizer = tiny_tokenizer(prepends_bos=prepends)
    model: Any = load_model("mine", hf_model=tiny_model("qwen2"), tokenizer=tokenizer)
    plain = tokenizer.encode("hello world", add_special_tokens=False)
    assert model.to_tokens("hello world", prepend_bos=True).tolist() == [[0, *plain]]
    assert model.to_tokens("hello world", prepend_bos=False).tolist() == [plain]


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_model_loads_and_continues_the_capital_of_france(name: str) -> None:
    model: Any = load_model(name)
    facts = describe_model(model)
    assert (facts.name, facts.family) == (name, BUNDLED[name].family)
    assert facts.context >= 512
    tokens = model.to_tokens("The capital of France is", prepend_bos=True)
    assert model.tokenizer.decode(model(tokens)[0, -1].argmax()) == " Paris"


@pytest.mark.slow
@pytest.mark.smollm2
def test_smollm2_loads_from_its_installed_package() -> None:
    model: Any = load_model("smollm2", dtype="bfloat16")
    facts = describe_model(model)
    assert (facts.n_heads, facts.n_kv_heads, facts.n_layers) == (9, 3, 30)
    assert (facts.name, facts.family, facts.dtype) == (
        "smollm2-135m-instruct",
        "Llama",
        "bfloat16",
    )
    tokenizer = model.tokenizer
    specials = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token)
    assert specials == ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    tokens = model.to_tokens("The capital of France is", prepend_bos=True)
    assert tokens[0, 0] == 1
    assert tokenizer.decode(model(tokens)[0, -1].argmax()) == " Paris"
