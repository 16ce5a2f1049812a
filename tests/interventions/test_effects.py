"""Effects of ablation against runs one by one, arithmetic by hand, and their own promises."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import huggingface_hub
import pytest
import torch
from torch import Tensor

from mi_toolkit import ablating, ablation_effect, ablation_sweep, generate
from mi_toolkit.core.errors import HookError, PromptError, ReportError, UnknownNameError
from mi_toolkit.core.head import Head
from mi_toolkit.interventions.ablation import KINDS
from mi_toolkit.interventions.components import Component, targets_of
from mi_toolkit.interventions.effect import (
    FIGURES,
    AblationEffect,
    PrefixCachedRuns,
    random_controls,
)
from mi_toolkit.interventions.sweep import AblationSweep
from mi_toolkit.models.load import load_model
from mi_toolkit.text.prompt_experiment import losses, readings
from tests.hooked_transformer import needs_hooked_transformer
from tests.hub_cache import hub_config, lay_out, shrunk
from tests.models_here import TOYS, loaded
from tests.tiny_models import tiny_tokenizer

IDS = torch.randint(1, 900, (2, 12), generator=torch.Generator().manual_seed(3))
OTHER = torch.randint(1, 900, (1, 20), generator=torch.Generator().manual_seed(4))


def by_hand(clean: Tensor, ablated: Tensor, ids: Tensor, target: int) -> dict[str, float]:
    """The five changes, from logits of one sequence, in float64."""
    before, after = clean.double().log_softmax(-1), ablated.double().log_softmax(-1)
    rows = torch.arange(len(ids) - 1)
    return {
        "log_prob": float(after[-1, target] - before[-1, target]),
        "logit": float(ablated[-1, target] - clean[-1, target]),
        "rank": float((ablated[-1] > ablated[-1, target]).sum())
        - float((clean[-1] > clean[-1, target]).sum()),
        "kl": float((before[-1].exp() * (before[-1] - after[-1])).sum()),
        "loss": float((before[rows, ids[1:]] - after[rows, ids[1:]]).mean()),
    }


def one_by_one(model, ids: Tensor, components, how: str, target: int) -> dict[str, float]:
    reference = {"zero": None, "pattern_preserving": ids}.get(how, OTHER)
    with torch.no_grad():
        clean = model(ids[None])[0]
        with ablating(model, components, how, reference):
            return by_hand(clean, model(ids[None])[0], ids, target)


@cache
def swept(name: str, how: str) -> AblationSweep:
    return ablation_sweep(loaded(name), IDS[0], target=7, how=how, reference=OTHER)


@pytest.mark.parametrize("how", KINDS)
@pytest.mark.parametrize("name", TOYS)
def test_a_sweep_is_what_each_head_does_alone(name: str, how: str) -> None:
    sweep = swept(name, how)
    for head in (Head(0, 1), Head(3, 0)):
        alone = one_by_one(loaded(name), IDS[0], [head], how, 7)
        found = {figure: float(sweep[figure][head]) for figure in FIGURES}
        assert found == pytest.approx(alone, abs=2e-4)


@pytest.mark.parametrize("name", TOYS)
def test_runs_that_begin_at_a_later_layer_are_whole_runs_to_the_bit(name: str) -> None:
    model = loaded(name)
    later = PrefixCachedRuns(model, IDS[0])
    assert later.reuses
    for component in ("L0H1", "L1.mlp", "L2H0", "L3N4"):
        targets = targets_of(model, [[Component.of(component)]])
        hooks = KINDS["zero"](model, targets, None)(targets)
        with torch.no_grad(), ablating(model, component):
            whole = model(IDS[:1])
        assert torch.equal(later.logits(targets, hooks, 1), whole)


@pytest.mark.parametrize("how", KINDS)
def test_a_sweep_leaves_nothing_behind(how: str) -> None:
    model = loaded("toy-pythia")
    others = IDS[1:]
    before = model(others)
    hooks = {name: len(point._forward_hooks) for name, point in model.hook_dict.items()}
    ablation_sweep(model, IDS[0], how=how, reference=OTHER)
    later, targets = PrefixCachedRuns(model, IDS[0]), targets_of(model, [[Head(2, 0)]])

    def interrupted(activation: Tensor) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        later.logits(targets, [(targets[0].hook, interrupted)], 1)
    assert torch.equal(model(others), before)
    assert not any("forward" in vars(block) for block in model.blocks)
    assert {name: len(point._forward_hooks) for name, point in model.hook_dict.items()} == hooks
    assert not any(len(block._forward_hooks) for block in model.blocks)


def test_a_block_that_reads_past_the_one_before_it_makes_every_layer_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = loaded("toy-gpt2")
    seen: list[Tensor] = []

    def keep(residual: Tensor, hook: object) -> None:
        seen.append(residual)

    # Layer 3 reads what layer 0 was given, as in models that share keys across layers.
    def past(residual: Tensor, hook: object) -> Tensor:
        return residual + (seen.pop() if seen else 0.0)

    hooks = [("blocks.1.hook_resid_pre", keep), ("blocks.3.hook_resid_pre", past)]
    with model.hooks(fwd_hooks=hooks), torch.no_grad():
        later = PrefixCachedRuns(model, IDS[0])
        assert not later.reuses
        assert "does not give its own logits" in caplog.text
        targets = targets_of(model, [[Head(2, 0)]])
        found = later.logits(targets, KINDS["zero"](model, targets, None)(targets), 1)
        with ablating(model, "L2H0"):
            whole = model(IDS[:1])
    assert torch.equal(found, whole)


def test_a_sweep_inside_another_ablation_is_of_the_ablated_model() -> None:
    model = loaded("toy-qwen2")
    with ablating(model, "L0H0"):
        sweep = ablation_sweep(model, IDS[0], target=7)
    with torch.no_grad():
        with ablating(model, "L0H0"):
            clean = model(IDS[:1])[0]
        with ablating(model, ["L0H0", "L2H1"]):
            both = model(IDS[:1])[0]
    expected = by_hand(clean, both, IDS[0], 7)
    found = {figure: float(sweep[figure][2, 1]) for figure in FIGURES}
    assert found == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("how", KINDS)
@pytest.mark.parametrize("name", TOYS)
def test_an_effect_and_its_controls_are_what_each_set_does(name: str, how: str) -> None:
    model = loaded(name)
    components = ["L1H0", "L2H1", "L2N5"]
    effect = ablation_effect(
        model, IDS[0], components, target=7, how=how, reference=OTHER, n_random=2
    )
    assert effect.change == pytest.approx(one_by_one(model, IDS[0], components, how, 7), abs=2e-4)
    assert effect.before.token == effect.after.token == 7
    for place, control in enumerate(effect.controls):
        assert [(c.layer, c.part) for c in control] == [(1, "head"), (2, "head"), (2, "neuron")]
        alone = one_by_one(model, IDS[0], control, how, 7)
        found = {figure: float(effect.control_changes[figure][place]) for figure in FIGURES}
        assert found == pytest.approx(alone, abs=2e-4)


def test_ablating_nothing_changes_nothing_whatever_the_kind() -> None:
    for how in KINDS:
        other = {"reference": "John went to the store"} if how == "resample" else {}
        found = ablation_effect(
            loaded("toy-gpt2"), "Mary and John", [], how=how, n_random=0, **other
        )
        assert not found.kl.any(), how
