"""Effects of ablation against runs one by one, arithmetic by hand, and their own promises."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import huggingface_hub
import pytest
import torch
from torch import Tensor

from mi_toolkit import ablating, ablation_effect, ablation_sweep, generate
from mi_toolkit.core.errors import HookError, PromptError, ReportError, UnknownNameError
from mi_toolkit.core.head import Head
from mi_toolkit.draw.ablation import effect_html
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


def test_ablating_nothing_changes_nothing_to_the_bit() -> None:
    effect = ablation_effect(loaded("toy-opt"), IDS[0], [])
    assert effect.change == {"log_prob": 0, "logit": 0, "rank": 0, "kl": 0, "loss": 0}
    assert effect.before == effect.after
    assert effect.top_before == effect.top_after
    assert effect.controls == ()
    assert effect.share_beyond("kl") != effect.share_beyond("kl")
    assert effect.title() == "Nothing of toy-opt under zero ablation"


def test_a_prompt_of_one_token_has_no_loss_and_no_word_of_it() -> None:
    effect = ablation_effect(loaded("toy-qwen2"), [5], ["L2H0"], n_random=3, max_new_tokens=0)
    assert math.isnan(effect.share_beyond("loss"))
    assert effect.share_beyond("log_prob") in (0, pytest.approx(1 / 3), pytest.approx(2 / 3), 1)
    assert effect.cells()[-1][1:] == ["–", "–", "–", "", ""]
    assert [*effect.measured] == ["log_prob", "logit", "rank", "kl"]
    assert "nan" not in str(effect)
    assert "nan" not in effect_html(effect)


def test_the_target_is_the_most_probable_token_or_the_one_asked_for() -> None:
    model, prompt = loaded("toy-gpt2"), "Mary and John went to"
    best = ablation_effect(model, prompt, "L2H0", n_random=0)
    assert best.before == best.top_before[0]
    assert best.before.rank == 1
    assert len(best.top_before) == len(best.top_after) == 10
    asked = ablation_effect(model, prompt, "L2H0", target=" John", n_random=0, top_k=3)
    assert asked.before.text == " John"
    assert asked.texts[1:] == ("Mary", " and", " John", " went", " to")
    assert len(asked.top_after) == 3


def test_free_text_is_what_the_model_and_the_ablated_model_generate() -> None:
    model, prompt = loaded("toy-gpt2"), "Mary and John went to"
    effect = ablation_effect(model, prompt, "L2H0", n_random=0, max_new_tokens=5)
    free = effect.free_text
    assert free is not None
    assert free.before == tuple(generate(model, prompt, max_new_tokens=5).sequences[0].ids.tolist())
    with ablating(model, "L2H0"):
        under = generate(model, prompt, max_new_tokens=5).sequences[0]
    assert free.after == tuple(under.ids.tolist())
    assert free.texts[1] == under.text
    # The first token under ablation is the one that teacher forcing finds most probable.
    assert free.after[0] == effect.top_after[0].token
    assert free.before[: free.same] == free.after[: free.same]
    none = ablation_effect(model, prompt, "L2H0", n_random=0, how="pattern_preserving")
    assert none.free_text is None


def test_readings_are_those_of_logits_made_by_hand() -> None:
    clean = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 1.0]])
    ablated = clean.clone()
    ablated[1, 1] = 0.5
    ids = torch.tensor([3, 1])
    found = readings(torch.stack([clean, ablated]), clean, ids, 1)
    expected = by_hand(clean, ablated, ids, 1)
    for figure in ("log_prob", "logit", "rank", "kl"):
        values = getattr(found, figure)
        assert float(values[1] - values[0]) == pytest.approx(expected[figure], abs=1e-6)
    assert found.rank.tolist() == [1, 2]
    # An even prediction over four tokens.
    assert found.loss.tolist() == pytest.approx([torch.tensor(4.0).log().item()] * 2)
    assert losses(clean[None, :1], ids[:1]).shape == (1, 0)


def test_controls_have_as_many_of_each_kind_in_each_layer_and_are_other_sets() -> None:
    model = loaded("toy-gpt2")
    chosen = [Component.of(name) for name in ("L1H0", "L1H2", "L3N7")]
    sets = random_controls(model, chosen, n_sets=30, seed=0)
    assert len(set(sets)) == len(sets) == 30
    for drawn in sets:
        assert [str(c)[:3] for c in drawn] == ["L1H", "L1H", "L3N"]
        assert set(drawn) != set(chosen)
    mlps = random_controls(model, [Component.of("L1.mlp")], n_sets=9, seed=0)
    assert sorted(str(drawn[0]) for drawn in mlps) == ["L0.mlp", "L2.mlp", "L3.mlp"]
    assert random_controls(model, chosen, n_sets=30, seed=0) == sets
    assert random_controls(model, chosen, n_sets=30, seed=1) != sets
    every = [Component.of((0, head)) for head in range(4)]
    assert random_controls(model, every, n_sets=5, seed=0) == ()


def test_results_come_back_from_disk_as_they_were(tmp_path: Path) -> None:
    model, path = loaded("toy-gpt2"), tmp_path / "kept.safetensors"
    effect = ablation_effect(model, IDS[0], ["L2H0", "L1.mlp"], n_random=3)
    effect.save(path)
    again = AblationEffect.load(path)
    assert repr(again) == repr(effect)
    assert again.to_pandas().equals(effect.to_pandas())
    assert (again.controls, again.top_after) == (effect.controls, effect.top_after)
    assert again.provenance == effect.provenance
    with pytest.raises(ReportError, match="holds no ablation sweep of this version"):
        AblationSweep.load(path)
    swept("toy-gpt2", "zero").save(path)
    assert AblationSweep.load(path).to_pandas().equals(swept("toy-gpt2", "zero").to_pandas())


def test_tables_have_a_row_for_each_head_and_each_set() -> None:
    sweep = swept("toy-gpt2", "zero")
    table = sweep.to_pandas()
    assert list(table.name)[:5] == ["L0H0", "L0H1", "L0H2", "L0H3", "L1H0"]
    row = table[table.name == "L2H0"].iloc[0]
    assert row.kl == pytest.approx(float(sweep.kl[2, 0]))
    head, change = sweep.top(1)[0]
    assert abs(change) == pytest.approx(float(table.log_prob.abs().max()))
    assert str(head) == table.name[table.log_prob.abs().argmax()]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda m: ablation_effect(m, IDS, "L0H0"),
            PromptError,
            "takes one prompt at a time",
        ),
        (lambda m: ablation_sweep(m, IDS[0], how="zro"), UnknownNameError, "Did you mean 'zero'"),
        (
            lambda m: ablation_sweep(m, IDS[0], how="resample"),
            PromptError,
            "as reference, at least as long as the prompt",
        ),
        (
            lambda m: ablation_sweep(m, IDS[0], how="resample", reference=[[0, 5, 6] * 9] * 4),
            PromptError,
            "The reference has 4 sequences: resampling one prompt takes one",
        ),
        (lambda m: ablation_effect(m, IDS[0], "L0H0", target=5000), PromptError, "Token id 5000"),
        (lambda m: ablation_effect(m, IDS[0], "L9H0"), UnknownNameError, "has no head L9H0"),
        (lambda m: ablation_effect(m, IDS[0], "L0H0", n_random=-1), PromptError, "0 or more"),
        (lambda m: swept("toy-gpt2", "zero")["klx"], UnknownNameError, "No figure is called 'klx'"),
    ],
)
def test_a_mistaken_call_says_what_to_do(call, error, message: str) -> None:
    with pytest.raises(error, match=message):
        call(loaded("toy-gpt2"))


def test_a_hook_that_does_not_fire_is_an_error() -> None:
    model = loaded("toy-gpt2")
    later, targets = PrefixCachedRuns(model, IDS[0]), targets_of(model, [[Head(2, 0)]])
    with pytest.raises(HookError, match=r"blocks.2.attn.hook_z .* did not fire"):
        later.logits(targets, [], 1)


@needs_hooked_transformer
@pytest.mark.parametrize("name", ["EleutherAI/pythia-160m", "facebook/opt-125m"])
def test_a_hooked_transformer_gives_the_effects_of_a_bridge(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    lay_out(tmp_path, name, shrunk(hub_config(name), n_layers=3), tiny_tokenizer())
    ids = torch.randint(1, 250, (10,), generator=torch.Generator().manual_seed(1))
    found = []
    for backend in ("bridge", "hooked"):
        model = load_model(name, backend=backend)
        assert PrefixCachedRuns(model, ids).reuses
        components = ["L1H3", "L2N5", "L1.mlp"]
        effect = ablation_effect(model, ids, components, target=9, n_random=2)
        found.append((ablation_sweep(model, ids, target=9), effect))
    (bridge, of_bridge), (hooked, of_hooked) = found
    for figure in ("log_prob", "logit", "kl", "loss"):
        torch.testing.assert_close(hooked[figure], bridge[figure], atol=2e-3, rtol=1e-3)
        assert of_hooked.change[figure] == pytest.approx(of_bridge.change[figure], abs=2e-3)


def test_no_component_has_no_effect_by_any_kind() -> None:
    for how in KINDS:
        other = {"reference": "John went to the store"} if how == "resample" else {}
        found = ablation_effect(
            loaded("toy-gpt2"), "Mary and John", [], how=how, n_random=0, **other
        )
        assert not found.kl.any(), how
