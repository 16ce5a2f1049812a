"""Faults that `verify_model` finds in families of every kind, each by the check that is for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mi_toolkit as mi
from mi_toolkit.core.model import attention_layers, pattern_hook
from mi_toolkit.verification.check_input import CheckInput
from tests.families.zoo import ROWS, build
from tests.tiny_models import tiny_tokenizer

FAMILIES = ("granite", "gpt_oss", "deepseek_v3", "falcon, new decoder")
SENSE = {"coherence_loss", "coherence_repetition"}
"""What weights made at random do not have."""


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved")
    build(ROWS[request.param]).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@cache
def loaded(folder: Path) -> Any:
    return mi.load_model(folder)


def faults(folder: Path, model: Any) -> set[str]:
    return set(mi.verify_model(folder, model=model, max_new_tokens=2).failed) - SENSE


def test_the_model_itself_has_none(folder: Path) -> None:
    assert faults(folder, loaded(folder)) == set()


def test_one_weight_of_another_value_is_seen_in_the_logits(folder: Path) -> None:
    model = loaded(folder)
    weight = model.original_model.get_output_embeddings().weight
    kept = weight[7].clone()
    weight[7] += 0.01
    try:
        assert "logits" in faults(folder, model)
    finally:
        weight[7] = kept


def test_a_look_ahead_is_seen_in_the_mask(folder: Path) -> None:
    def look_ahead(pattern: Tensor, hook: Any) -> Tensor:
        seen = pattern.clone()
        if pattern.shape[-2] > 3:  # not while a text is written, token by token
            seen[:, 0, 3, 4], seen[:, 0, 3, 3] = seen[:, 0, 3, 3].clone(), 0
        return seen

    model = loaded(folder)
    with model.hooks(fwd_hooks=[(pattern_hook(1), look_ahead)]):
        found = faults(folder, model)
    assert {"attention_mask", "attention_patterns"} <= found
    assert "attention_rows" not in found


def test_rows_that_do_not_add_up_are_seen(folder: Path) -> None:
    model = loaded(folder)
    layer = attention_layers(model)[-1]

    def a_part_of_it(pattern: Tensor, hook: Any) -> Tensor:
        return pattern * (1 - 1e-3)

    with model.hooks(fwd_hooks=[(pattern_hook(layer), a_part_of_it)]):
        assert {"attention_rows", "attention_patterns"} <= faults(folder, model)


@pytest.mark.parametrize(
    ("told", "check"),
    [
        (lambda positions: positions**2 // 8, "positions_shifted"),
        (lambda positions: positions * 0, "positions_stretched"),
    ],
    ids=["no distances", "none at all"],
)
def test_positions_told_wrong_are_seen(
    folder: Path, told: Callable[[Tensor], Tensor], check: str
) -> None:
    model = loaded(folder)
    with _positions(model, told):
        assert {check, "logits"} <= faults(folder, model)


@contextmanager
def _positions(model: Any, told: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside, rotary embeddings turn by other positions than those they are given."""

    def change(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        positions = kwargs.pop("position_ids", args[-1])
        return (args[0], told(positions)), kwargs

    turning = [each for each in model.original_model.modules() if hasattr(each, "inv_freq")]
    own = [each for each in turning if not hasattr(each, "original_component")]
    handles = [each.register_forward_pre_hook(change, with_kwargs=True) for each in own]
    assert handles
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def test_a_sink_that_takes_nothing_is_seen(tmp_path: Path) -> None:
    build(ROWS["gpt_oss"]).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    model: Any = mi.load_model(tmp_path)
    for name, parameter in model.original_model.named_parameters():
        if name.endswith("sinks"):
            parameter.fill_(-torch.inf)
    assert {"attention_rows", "attention_patterns", "logits"} <= faults(tmp_path, model)


def test_a_model_without_a_tokenizer_is_checked_on_ids(tmp_path: Path) -> None:
    build(ROWS["qwen3"]).save_pretrained(tmp_path)
    found = mi.verify_model(tmp_path)
    assert found.passed
    assert found.completions == ()
    assert "has no tokenizer to write with" in found.outcomes["coherence_loss"].sentence
    assert found.outcomes["logits"].verdict == "passed"


def test_rows_with_a_sink_are_not_passed_where_nothing_says_what_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(ROWS["gpt_oss"]).save_pretrained(tmp_path)
    monkeypatch.setattr(
        CheckInput, "reference_patterns", lambda *_, **__: {}
    )  # as of fused kernels
    outcome = mi.verify_model(tmp_path).outcomes["attention_rows"]
    assert outcome.verdict == "not applicable"
    assert "does not show what its sinks leave" in outcome.sentence
