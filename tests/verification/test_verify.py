"""`verify_model`: what is whole passes every check, and each check fails what it is there for."""

from __future__ import annotations

import math
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mi_toolkit import load_model, verify_model
from mi_toolkit.core.errors import ModelLoadError, PromptError, UnknownNameError
from mi_toolkit.core.model import pattern_hook, z_hook
from mi_toolkit.models.sources import bundled_folder
from mi_toolkit.verification.check_input import (
    PROMPTS,
    at_least,
    at_most,
    not_applicable,
    repetition,
)
from mi_toolkit.verification.checks import CHECKS, left_over_in_gguf
from mi_toolkit.verification.verify import Verification
from tests.hooked_transformer import FAMILIES, small_hooked
from tests.models_here import TOYS, loaded
from tests.verification.made import LLAMA_3, random_folder

FEW = 6
"""New tokens where what is said does not matter."""


@cache
def of_toy(name: str) -> Verification:
    return verify_model(name, model=loaded(name))


def verdicts(found: Verification) -> dict[str, str]:
    return {name: outcome.verdict for name, outcome in found.outcomes.items()}


@pytest.mark.parametrize("name", TOYS)
def test_every_bundled_model_passes(name: str) -> None:
    found = of_toy(name)
    assert found.failed == ()
    assert list(found.outcomes) == list(CHECKS)
    absent = {"qk_norm", "rope_scaling"} | ({"qkv_bias"} if name == "toy-gpt-neo" else set())
    assert {check for check, verdict in verdicts(found).items() if verdict != "passed"} == absent
    assert [each.prompt for each in found.completions] == list(PROMPTS)
    assert found.completions[0].text.startswith(" Paris")
    assert found.provenance is not None
    assert found.provenance.model == found.model == name


def test_learned_positions_notice_a_shift_and_rotary_ones_do_not() -> None:
    assert of_toy("toy-gpt2").outcomes["positions_shifted"].figure > 0.01
    assert of_toy("toy-opt").outcomes["positions_shifted"].figure > 0.01
    for name in ("toy-pythia", "toy-qwen2"):
        assert of_toy(name).outcomes["positions_shifted"].figure < 1e-4
        assert of_toy(name).outcomes["positions_stretched"].figure > 0.01


def test_windows_are_reached_by_the_text_and_shared_heads_are_told() -> None:
    mask = of_toy("toy-gpt-neo").outcomes["attention_mask"].sentence
    assert mask.endswith("Windows of 32 tokens; the text of 48 goes beyond 32.")
    shape = of_toy("toy-qwen2").outcomes["cache_shape"].sentence
    assert "2 KV heads × positions × 32, 4 query heads over them" in shape


@pytest.mark.parametrize(
    ("model_type", "fields", "part"),
    [
        ("qwen3", {}, "qk_norm"),
        ("qwen2", {}, "qkv_bias"),
        ("llama", {"rope_parameters": LLAMA_3, "max_position_embeddings": 256}, "rope_scaling"),
        ("mistral", {"sliding_window": 16}, None),
    ],
)
def test_random_weights_pass_on_structure_and_fail_on_coherence(
    model_type: str, fields: dict[str, Any], part: str | None, tmp_path: Path
) -> None:
    found = verify_model(random_folder(tmp_path, model_type, **fields))
    assert found.failed == ("coherence_loss",)
    parts = {"qk_norm", "qkv_bias", "rope_scaling"}
    assert {name for name in parts if verdicts(found)[name] == "passed"} == {part} - {None}
    if model_type == "mistral":
        assert "goes beyond 16" in found.outcomes["attention_mask"].sentence


def test_one_weight_changed_is_seen_in_the_logits() -> None:
    model: Any = load_model("toy-gpt2")
    # In the last layer: what comes before it, attention among it, stays as it is.
    *_, last = (p for name, p in model.named_parameters() if "c_fc" in name and p.ndim == 2)
    last.data[3, 5] += 0.5
    found = verify_model("toy-gpt2", model=model, max_new_tokens=FEW)
    assert found.failed == ("logits",)
    assert verify_model("toy-gpt2", max_new_tokens=FEW).passed


def copied(tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    folder = Path(shutil.copytree(bundled_folder("toy-pythia"), tmp_path / "copy"))
    return folder, load_file(folder / "model.safetensors")


def test_a_tensor_dropped_fails_the_loading_and_nothing_else_is_measured(tmp_path: Path) -> None:
    folder, tensors = copied(tmp_path)
    dropped = "gpt_neox.layers.1.mlp.dense_h_to_4h.weight"
    del tensors[dropped]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    found = verify_model(folder)
    assert found.failed == ("weights",)
    assert found.outcomes["weights"].figure == 1
    assert f"1 missing ({dropped})" in found.outcomes["weights"].sentence
    others = {verdict for name, verdict in verdicts(found).items() if name != "weights"}
    assert others == {"not applicable"}
    assert found.completions == ()
    assert "Not run: the weights did not load whole" in found.outcomes["logits"].sentence


def test_a_tensor_left_over_fails_the_loading_and_the_rest_is_measured(tmp_path: Path) -> None:
    folder, tensors = copied(tmp_path)
    tensors["value_head.weight"] = torch.ones(1, 128)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    found = verify_model(folder, max_new_tokens=FEW)
    assert found.failed == ("weights",)
    assert "1 left over (value_head.weight)" in found.outcomes["weights"].sentence
    assert found.outcomes["logits"].verdict == "passed"


def test_a_tensor_of_another_size_fails_the_loading(tmp_path: Path) -> None:
    folder, tensors = copied(tmp_path)
    name = "gpt_neox.final_layer_norm.weight"
    tensors[name] = torch.ones(64)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert f"1 of another size ({name})" in verify_model(folder).outcomes["weights"].sentence


def test_what_a_gguf_file_holds_more_than_the_model_is_left_over(tmp_path: Path) -> None:
    from gguf import GGUFWriter

    file = tmp_path / "small.gguf"
    writer = GGUFWriter(file, "llama")
    for name, shape in (("a.weight", (3, 4)), ("b.weight", (5,)), ("rope_freqs.weight", (7,))):
        writer.add_tensor(name, torch.zeros(shape).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert left_over_in_gguf(file, torch.nn.Linear(4, 3)) == ("2 values of small.gguf",)
    assert left_over_in_gguf(file, torch.nn.Linear(4, 5)) == ()


def test_attention_that_is_none_fails() -> None:
    model = loaded("toy-gpt2")
    half = (pattern_hook(1), lambda pattern, hook: pattern / 2)
    with model.hooks(fwd_hooks=[half]):
        found = verify_model("toy-gpt2", model=model, max_new_tokens=FEW)
    assert {"attention_rows", "attention_patterns", "logits"} <= set(found.failed)
    assert "attention_mask" not in found.failed
    even = (pattern_hook(1), lambda pattern, hook: torch.ones_like(pattern) / pattern.shape[-1])
    with model.hooks(fwd_hooks=[even]):
        found = verify_model("toy-gpt2", model=model, max_new_tokens=FEW)
    assert {"attention_mask", "attention_patterns"} <= set(found.failed)
    assert "attention_rows" not in found.failed


def test_a_cache_that_is_not_worth_the_whole_text_fails() -> None:
    model = loaded("toy-qwen2")

    def late(z: torch.Tensor, hook: Any) -> torch.Tensor:
        # In the whole text alone: token by token no position is the 43rd of its pass.
        changed = z.clone()
        changed[:, 42:43] += 1.0
        return changed

    with model.hooks(fwd_hooks=[(z_hook(2), late)]):
        found = verify_model("toy-qwen2", model=model, max_new_tokens=FEW)
    assert {"cache_steps", "logits"} <= set(found.failed)
    assert "cache_shape" not in found.failed


def test_positions_that_have_no_part_fail() -> None:
    model = loaded("toy-gpt2")
    nowhere = ("hook_pos_embed", lambda found, hook: torch.zeros_like(found))
    with model.hooks(fwd_hooks=[nowhere]):
        found = verify_model("toy-gpt2", model=model, max_new_tokens=FEW)
    assert {"positions_shifted", "positions_stretched"} <= set(found.failed)


def test_biases_that_are_not_added_fail() -> None:
    model: Any = load_model("toy-qwen2")
    for name, parameter in model.named_parameters():
        if name.endswith("bias") and ".self_attn." in name:
            parameter.data.zero_()
    found = verify_model("toy-qwen2", model=model, max_new_tokens=FEW)
    assert {"qkv_bias", "logits"} <= set(found.failed)


def test_the_model_comes_back_as_it_was() -> None:
    model: Any = load_model("toy-opt")
    model.train()
    verify_model("toy-opt", model=model, max_new_tokens=FEW)
    assert all(module.training for module in model.modules())
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_hooked_transformer_passes_on_structure(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooked, _ = small_hooked(name, tmp_path, monkeypatch)
    found = verify_model(name, model=hooked, max_new_tokens=FEW)
    assert set(found.failed) <= {"coherence_loss", "coherence_repetition"}
    for check in ("weights", "logits", "cache_shape", "cache_steps", "attention_patterns"):
        assert verdicts(found)[check] == "passed"
    assert "cannot be given positions" in found.outcomes["positions_shifted"].sentence


def test_precision_has_limits_of_its_own() -> None:
    found = verify_model("toy-pythia", dtype="bfloat16", max_new_tokens=FEW)
    assert found.failed == ()
    exact = of_toy("toy-pythia").outcomes["logits"].limit
    assert found.outcomes["logits"].limit > 100 * exact


@pytest.mark.smollm2
@pytest.mark.slow
def test_smollm2_passes() -> None:
    name = "smollm2-135m-instruct"
    found = verify_model(name, model=loaded(name))
    assert found.failed == ()
    assert "Paris" in found.completions[0].text
    assert "3 KV heads" in found.outcomes["cache_shape"].sentence


def test_a_verdict_is_the_figure_held_to_its_limit() -> None:
    assert at_most(1.0, 1.0, "").verdict == "passed"
    assert at_most(1.0, 1.1, "").verdict == "failed"
    assert at_most(1.0, math.nan, "").verdict == "failed"
    assert at_least(1.0, 1.0, "").verdict == "passed"
    assert at_least(1.0, 0.9, "").verdict == "failed"
    assert at_least(1.0, math.nan, "").verdict == "failed"
    assert not_applicable("").verdict == "not applicable"


def test_repetition_counts_runs_that_were_there_before() -> None:
    assert repetition([1, 2, 3, 4]) == 0
    assert repetition([7] * 20) == pytest.approx(17 / 18)
    assert repetition([1, 2]) == 0


def test_tables_and_records_hold_every_check() -> None:
    found = of_toy("toy-gpt2")
    table = found.to_pandas()
    assert table["check"].tolist() == list(CHECKS)
    assert set(table["verdict"]) == {"passed", "not applicable"}
    assert [each["check"] for each in found.record()["checks"]] == list(CHECKS)
    assert repr(found).startswith("Verification of toy-gpt2: 12 passed, 2 not applicable")
    assert "' Paris." in repr(found)


def test_mistakes_are_told() -> None:
    with pytest.raises(UnknownNameError, match="No model is called 'toy-gtp2'"):
        verify_model("toy-gtp2")
    with pytest.raises(ModelLoadError, match="There is no folder"):
        verify_model("./nowhere")
    with pytest.raises(PromptError, match="max_new_tokens=0: it has to be 1 or more"):
        verify_model("toy-gpt2", max_new_tokens=0)
