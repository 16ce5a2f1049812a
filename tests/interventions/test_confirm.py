"""Confirmation: heads whose answer is known, losses against one-by-one ablation, and messages."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from torch.nn.functional import cross_entropy

from mi_toolkit.core.errors import PromptError, ReportError, UnknownNameError
from mi_toolkit.core.head import Head
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.result import save_record
from mi_toolkit.core.stimuli import evaluation_passages, natural, repeated_random
from mi_toolkit.core.tokens import from_sequences
from mi_toolkit.heads.classify import classify_heads
from mi_toolkit.heads.report import FIGURES
from mi_toolkit.interventions.ablation import KINDS, ablating
from mi_toolkit.interventions.confirm.confirmation import Confirmation
from mi_toolkit.interventions.confirm.explanation import _orders
from mi_toolkit.interventions.confirm.hypotheses import claims_of
from mi_toolkit.interventions.confirm.label_sets import _null, confirm_each_head, confirm_heads
from mi_toolkit.interventions.confirm.losses import LossRuns, measure
from mi_toolkit.interventions.confirm.setting import AblationConfig, LossTable
from mi_toolkit.models.load import load_model
from mi_toolkit.text.trace import trace_pipeline
from tests.hooked_transformer import needs_hooked_transformer
from tests.hub_cache import hub_config, lay_out, shrunk
from tests.models_here import TOYS, loaded
from tests.tiny_models import tiny_model, tiny_tokenizer

INDUCTION = {name: Head(2, 0) for name in TOYS}


def briefly(model: HookedModel, *, n_sequences: int = 4, seed: int = 5) -> dict[str, Any]:
    """A short stimulus and a short reference: what a test of figures needs."""
    batch = repeated_random(model, n_tokens=16, n_sequences=n_sequences, seed=seed)
    reference = repeated_random(model, n_tokens=16, n_sequences=2, seed=99)
    return {"stimulus": batch.ids, "n_sequences": n_sequences, "reference": reference}


@pytest.mark.parametrize("name", TOYS)
@pytest.mark.parametrize("how", KINDS)
def test_losses_of_many_sets_equal_those_of_one_ablation_after_the_other(
    name: str, how: str
) -> None:
    model = loaded(name)
    ids = torch.randint(1, 900, (3, 20), generator=torch.Generator().manual_seed(1)).tolist()
    batch = from_sequences([ids[0], ids[1][:15], ids[2]], 0)
    queries = torch.zeros(3, 20, dtype=torch.bool)
    queries[0, [3, 18]] = queries[1, [5, 13]] = queries[2, 7] = True
    sets = [(Head(2, 1),), (), (Head(0, 3), Head(3, 1)), (Head(3, 0), Head(3, 2)), (Head(1, 2),)]
    average = batch.part(0, 2) if how == "mean" else None
    runs = LossRuns(model, sets, batch, queries, how=how, reference=average, rows=2)
    measure([runs], resume=None, progress=False)
    donors = {0: 2, 1: 2, 2: 0}
    for index, heads in enumerate(sets):
        expected = []
        for sequence in range(3):
            reference = {
                "mean": average,
                "resample": batch.part(donors[sequence], donors[sequence] + 1),
                "pattern_preserving": batch.part(sequence, sequence + 1),
            }.get(how)
            tokens = batch.sequence(sequence)[None]
            with torch.no_grad(), ablating(model, heads, how, reference):
                logits = model(tokens)[0]
            losses = cross_entropy(logits[:-1], tokens[0, 1:], reduction="none")
            expected.append(losses[queries[sequence, : len(losses)]])
        torch.testing.assert_close(runs.losses[index], torch.cat(expected), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", TOYS)
def test_ablating_the_induction_head_hurts_repeated_tokens_more_than_any_head_of_its_layer(
    name: str,
) -> None:
    head, model = INDUCTION[name], loaded(name)
    found = confirm_heads(model, {"induction": [head]}, alpha=0.3, **briefly(model))
    (trial,) = found["induction"]
    assert trial.effect.change > 2 + trial.effect.random.max()
    assert trial.effect.effect_low > 3
    assert trial.are_all
    # It ranks first of the four heads of its layer: one in four would, by chance.
    assert (trial.effect.p, trial.effect.percentile) == (0.25, 75.0)
    assert trial.verdict == "survives"
    assert found.heads() == {"induction": [head]}
    idle = [Head(2, 2), Head(3, 3)]
    found = confirm_heads(model, {"induction": idle}, alpha=0.3, **briefly(model))
    assert found["induction"][0].verdict == "fails"
    assert found.heads() == {}
    assert found.heads("fails") == {"induction": idle}


@pytest.mark.parametrize("name", TOYS)
def test_of_all_sets_of_one_head_a_layer_few_pass_whatever_the_label(name: str) -> None:
    """Each of the 256 sets is declared the label in turn; their losses are measured once."""
    model = loaded(name)
    every = [
        tuple(Head(layer, index) for layer, index in enumerate(indices))
        for indices in product(range(4), repeat=4)
    ]
    ids = repeated_random(model, n_tokens=8, n_sequences=1, seed=7).ids
    setting = AblationConfig.of(model, how="zero", reference=None, batch_size=None, seed=0)
    (claim,), _ = claims_of(
        model,
        {"current_token": every[0]},
        labels=None,
        stimulus=ids,
        n_sequences=None,
        seed=0,
    )
    (table,) = LossTable.of(setting, [claim], {"current_token": every})
    measure([table.run], resume=None, progress=False)
    found = []
    for heads in every:
        null = _null(setting, replace(claim, heads=heads), 500)
        assert null.are_all
        found.append(table.trial(claim, heads, null.sets, are_all=True).effect.p)
    p = torch.tensor(found)
    assert float((p <= 0.05).float().mean()) <= 0.065
    assert float((p <= 0.01).float().mean()) <= 0.02
    # One of 256 sets ranks first; its p is exact.
    assert float(p.min()) == pytest.approx(1 / 256)


def test_the_fate_of_a_set_is_its_rank_among_all_others_of_its_kind() -> None:
    model = loaded("toy-gpt2")
    claimed = {"current_token": ["L0H0", "L1H1", "L2H1", "L3H2"]}
    found = confirm_heads(model, claimed, how="zero", **briefly(model))
    (trial,) = found.trials
    assert len(trial.random_sets) == 255
    assert any(Head(0, 0) in drawn for drawn in trial.random_sets)
    assert trial.heads not in trial.random_sets
    assert trial.effect.p == (1 + trial.explanation.n_reaching) / 256
    assert trial.verdict == "fails"


def test_heads_alone_are_ranked_among_those_of_their_layer_and_of_the_model() -> None:
    model = loaded("toy-gpt2")
    claimed = {"induction": ["L2H0", "L2H2"], "previous_token": ["L0H0"]}
    found = confirm_each_head(model, claimed, alpha=0.2, **briefly(model))
    working, idle = found["induction"]
    assert working.heads == (Head(2, 0),)
    assert working.rank_in_layer == (1, 4)
    # Without the previous-token head below it, the induction head has nothing to match.
    above = [
        other
        for (other,), change in zip(working.random_sets, working.effect.random, strict=True)
        if change > working.effect.change
    ]
    assert above in ([], [Head(0, 0)])
    assert working.verdict == "survives"
    assert len(working.random_sets) == 14
    assert idle.verdict == "fails"
    assert abs(idle.effect.change) < 0.1 < working.effect.change
    (previous,) = found["previous_token"]
    # The induction head, alone, takes what it gives: it may weigh as much.
    assert previous.effect.percentile >= 100 * 14 / 16


def test_a_label_of_nearly_all_heads_is_ranked_among_all_of_them() -> None:
    model = loaded("toy-gpt2")
    every = [f"L{layer}H{head}" for layer in range(4) for head in range(4)]
    found = confirm_each_head(model, {"previous_token": every[:-1]}, **briefly(model))
    assert {len(trial.random_sets) for trial in found.trials} == {15}
    assert all(trial.heads not in trial.random_sets for trial in found.trials)
    assert not [trial for trial in found.trials if "1 other set" in trial.reason]
    assert sum(trial.verdict == "fails" for trial in found.trials) > 8


def test_one_call_for_all_labels_gives_each_its_own_predictions() -> None:
    model = loaded("toy-gpt2")
    together = {"induction": ["L2H0"], "previous_token": ["L0H0"]}
    both = confirm_each_head(model, together, **briefly(model))
    for label, heads in together.items():
        alone = confirm_each_head(model, {label: heads}, **briefly(model))
        one, other = both[label][0], alone[label][0]
        assert one.effect.change == pytest.approx(other.effect.change, abs=1e-5)
        assert one.n_queries == other.n_queries
        assert one.clean_loss == pytest.approx(other.clean_loss, abs=1e-5)
    sets = confirm_heads(model, together, **briefly(model))
    for label in together:
        assert sets[label][0].effect.change == pytest.approx(both[label][0].effect.change, abs=1e-5)
    assert both["induction"][0].n_queries == 4 * 15
    # Without the BOS and the last token, which nothing follows.
    assert both["previous_token"][0].n_queries == 4 * (33 - 3)


def test_a_report_is_confirmed_on_sequences_that_did_not_give_its_labels() -> None:
    model = loaded("toy-pythia")
    report = classify_heads(model, behaviours=["induction", "duplicate_token"], seed=3)
    asked = {"labels": ["induction"], "how": "zero", "n_sequences": 4}
    found = confirm_heads(model, report, **asked)
    (trial,) = found.trials
    assert trial.heads == tuple(report.heads("induction"))
    assert (trial.stimulus, trial.n_seen) == ("repeated_random", 0)
    fresh = repeated_random(model, seed=4).part(0, 4)
    assert found.provenance.seed == 4
    assert found.provenance.prompts == {"repeated_random": fresh.digest}
    assert "the sequences gave no label" in found.facts()
    again = confirm_heads(model, report, **asked, seed=3)
    assert again.trials[0].n_seen == 4
    assert "some sequences gave the label" in again.facts()
    assert confirm_heads(model, report, labels=["duplicate_token"]).untested == {
        "duplicate_token": "no head carries it"
    }
    moved = replace(report, labels=report.labels.flip(-1))
    marked = confirm_heads(model, moved, **asked, alpha=0.3)
    assert marked["induction"][0].verdict == "fails"


def test_natural_text_and_a_prompt_of_ones_own_say_what_the_label_had_seen() -> None:
    model = loaded("toy-gpt2")
    few = {"how": "zero", "n_sequences": 2}
    found = confirm_heads(model, {"diffuse": ["L3H0"]}, **few)
    other = natural(model, texts=evaluation_passages())
    assert found.provenance.prompts == {"natural": other.part(0, 2).digest}
    assert found.trials[0].n_seen is None
    prompt = "Mary and John went home. Mary and John went home. Mary and John went"
    report = classify_heads(model, prompt, behaviours=["induction"])
    marked = replace(report, labels=torch.ones_like(report.labels))
    assert confirm_heads(model, marked, **few).trials[0].n_seen == 1


def test_the_stimulus_may_be_named_or_given() -> None:
    model = loaded("toy-gpt2")
    claimed = {"induction": ["L2H0"], "diffuse": ["L3H0"]}
    named = confirm_heads(model, claimed, stimulus="natural", how="zero", n_sequences=2)
    assert {trial.stimulus for trial in named.trials} == {"natural"}
    prompt = "Mary and John went home. Mary and John went home. Mary and John went"
    own = confirm_heads(model, claimed, stimulus=prompt, how="zero")
    assert [trial.stimulus for trial in own.trials] == ["prompt", "prompt"]
    assert own["induction"][0].effect.interval == "jackknife over the queries of this text"
    none = confirm_heads(model, claimed, stimulus="no token twice", how="zero")
    assert none.untested["induction"].startswith("no prediction on prompt can show it: needs a")
    few = confirm_heads(model, {"induction": ["L2H0"]}, stimulus="a b a b a", how="zero")
    assert few["induction"][0].verdict == "undecided"
    assert few["induction"][0].reason == "too few predictions for an interval"
    with pytest.raises(UnknownNameError, match="Did you mean 'natural'"):
        confirm_heads(model, claimed, stimulus="natrual")


def test_a_label_that_says_heads_hold_back_survives_where_ablation_lowers_the_loss() -> None:
    model = loaded("toy-gpt2")
    claimed = {"prefix_suppression": ["L2H0"]}
    found = confirm_heads(model, claimed, alpha=0.3, **briefly(model))
    (trial,) = found.trials
    assert trial.effect.percentile == 75.0
    assert trial.effect.p == 1.0
    assert trial.verdict == "fails"


def test_more_than_two_thousand_sets_are_sampled_and_seeds_reproduce() -> None:
    hf_model = tiny_model(
        "gpt2", num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=8, head_dim=4
    )
    model = load_model("eight heads", hf_model=hf_model, tokenizer=tiny_tokenizer())
    # 56 sets of three heads in either layer.
    claimed = {"previous_token": [(layer, head) for layer in range(2) for head in range(3)]}
    first, again, other = (
        confirm_heads(
            model, claimed, stimulus="repeated_random", how="zero", n_sequences=1, seed=seed
        )
        for seed in (0, 0, 1)
    )
    assert first.to_pandas().equals(again.to_pandas())
    (trial,), (unlike,) = first.trials, other.trials
    assert len(set(trial.random_sets)) == 500
    assert not trial.are_all
    assert trial.effect.p == (1 + trial.explanation.n_reaching) / 501
    assert set(trial.random_sets) != set(unlike.random_sets)
    assert first.provenance.prompts != other.provenance.prompts


def test_labels_share_one_mean_over_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    mean = KINDS["mean"]

    def counted(*given):
        made.append(len(given[1]))
        return mean(*given)

    monkeypatch.setattr("mi_toolkit.interventions.confirm.losses.KINDS", {"mean": counted})
    model = loaded("toy-gpt2")
    claimed = {"induction": ["L2H0"], "previous_token": ["L0H0"]}
    confirm_heads(model, claimed, **briefly(model))
    assert made == [2]


def test_rows_to_a_pass_change_figures_by_rounding_only() -> None:
    model = loaded("toy-qwen2")
    claimed = {"induction": ["L1H1", "L2H0"]}
    one, many = (
        confirm_heads(model, claimed, batch_size=size, **briefly(model)) for size in (1, None)
    )
    torch.testing.assert_close(
        one.trials[0].effect.random, many.trials[0].effect.random, atol=1e-5, rtol=1e-4
    )
    # Clean run, sets, parts of layers and single heads: each once, on each of four sequences.
    assert one.n_passes == 4 * (1 + 16 + 8)
    assert many.n_passes == 4


def test_the_model_comes_back_as_it_was() -> None:
    model = loaded("toy-opt")
    ids = torch.arange(5, 25)[None]
    before = model(ids)
    hooks = {name: len(point._forward_hooks) for name, point in model.hook_dict.items()}
    confirm_heads(model, {"induction": ["L2H0"]}, how="pattern_preserving", n_sequences=2)
    assert {name: len(point._forward_hooks) for name, point in model.hook_dict.items()} == hooks
    assert torch.equal(model(ids), before)


def test_an_interrupted_confirmation_goes_on_where_it_stopped(tmp_path, monkeypatch) -> None:
    model = loaded("toy-gpt2")
    claimed, asked = {"induction": ["L2H0"]}, briefly(model)
    ran: list[int] = []
    run, stops = LossRuns.run, [True]

    def interrupted(self: LossRuns, sequence: int):
        if sequence == 2 and stops:
            raise KeyboardInterrupt
        ran.append(sequence)
        return run(self, sequence)

    monkeypatch.setattr(LossRuns, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        confirm_heads(model, claimed, resume=tmp_path, **asked)
    assert ran == [0, 1]
    stops.clear()
    resumed = confirm_heads(model, claimed, resume=tmp_path, **asked)
    assert ran == [0, 1, 2, 3]
    whole = confirm_heads(model, claimed, **asked)
    assert resumed.to_pandas().equals(whole.to_pandas())
    ran.clear()
    confirm_heads(model, claimed, how="zero", resume=tmp_path, **asked)
    assert len(ran) == 4


def test_saved_and_read_back_it_is_the_same(tmp_path) -> None:
    model = loaded("toy-gpt2")
    claimed = {"induction": ["L0H0", "L2H0"], "duplicate_token": []}
    for confirm, options in ((confirm_heads, {"shapley": True}), (confirm_each_head, {})):
        found = confirm(model, claimed, **briefly(model), **options)
        found.save(tmp_path / "found.safetensors")
        again = Confirmation.load(tmp_path / "found.safetensors")
        assert again.to_pandas().equals(found.to_pandas())
        assert again.trials[0].random_sets == found.trials[0].random_sets
        assert again.trials[0].rank_in_layer == found.trials[0].rank_in_layer
        assert torch.equal(again.trials[0].effect.random, found.trials[0].effect.random)
        assert (again.provenance, again.untested) == (found.provenance, found.untested)
        # Layers, shares and stand-ins are in the table.
        assert repr(again) == repr(found)
    with pytest.raises(ReportError, match="No confirmation at"):
        Confirmation.load(tmp_path / "nothing")
    old = tmp_path / "old.safetensors"
    save_record(old, format="mi_toolkit confirmation 2", tensors={}, record={})
    with pytest.raises(ReportError, match=r"older version: its random sets left .* again"):
        Confirmation.load(old)


def test_it_says_what_it_found() -> None:
    model = loaded("toy-gpt2")
    claimed = {"induction": ["L2H0"], "duplicate_token": []}
    found = confirm_heads(model, claimed, **briefly(model))
    assert repr(found).startswith("Labels of toy-gpt2 under mean ablation\n")
    undecided = "undecided: beyond all 3 other sets; chance alone does that 1 time in 4, and"
    assert undecided in " ".join(repr(found).split())
    assert "not tested: no head carries it" in repr(found)
    assert ">verdict</th>" in found._repr_html_()
    table = found.to_pandas().set_index("label")
    assert table.loc["induction", "verdict"] == "undecided"
    assert table.loc["induction", "n_random"] == 3
    assert table.loc["duplicate_token", "verdict"] == "untested"
    with pytest.raises(UnknownNameError, match="No label of this confirmation is called 'inducti'"):
        found["inducti"]


def test_a_set_that_fails_shows_in_which_layers_and_what_the_sets_above_it_share() -> None:
    """The toy's two heads that matter are L0H0 and L2H0; this set has neither."""
    model = loaded("toy-gpt2")
    claimed = {"induction": ["L0H1", "L1H1", "L2H1", "L3H2"]}
    found = confirm_heads(model, claimed, **briefly(model))
    (trial,) = found.trials
    explained = trial.explanation
    assert [part.heads for part in explained.layers] == [(head,) for head in trial.heads]
    assert explained.layers[0].rank > 1
    assert explained.layers[2].rank > 1
    # Next to the three others of its layer, each measured alone.
    (first,) = confirm_each_head(model, {"induction": ["L0H1"]}, **briefly(model)).trials
    assert explained.layers[0].change == pytest.approx(first.effect.change, abs=1e-4)
    others = first.effect.random[[drawn[0].layer == 0 for drawn in first.random_sets]]
    torch.testing.assert_close(explained.layers[0].others, others, atol=1e-4, rtol=1e-4)
    assert {shared.head for shared in explained.shared[:2]} == {Head(0, 0), Head(2, 0)}
    working = dict(
        zip([d[0] for d in first.random_sets], first.effect.random.tolist(), strict=True)
    )
    for shared in explained.shared[:2]:
        holding = [shared.head in drawn for drawn in trial.random_sets]
        reaching = trial.effect.random >= trial.effect.change
        assert shared.n_sets == sum(holding) == 64 - shared.labelled
        assert shared.n_reaching == int((reaching & torch.tensor(holding)).sum())
        assert shared.change == pytest.approx(working[shared.head], abs=1e-4)
    assert "without the label: L2H0" in repr(found)
    assert "only layer 2: L2H1" in repr(found)


PLANTED_TOKEN = 5


def planted(*heads: tuple[int, int]) -> HookedModel:
    """A model whose loss is known by arithmetic.

    Each of the heads writes the same direction `u`, 10,000 times as long as the embedding, and
    nothing else writes. The final norm takes the length away: any one of them gives what all give,
    and without all of them the embedding is left, which predicts every token alike.
    """
    model = tiny_model(
        "gpt2", num_hidden_layers=2, num_key_value_heads=4, tie_word_embeddings=False
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".ln_" not in name:
                weight.zero_()
        width = model.config.hidden_size
        up, embedded = torch.zeros(width), torch.zeros(width)
        up[:2] = torch.tensor([1.0, -1.0])
        embedded[2:4] = torch.tensor([1.0, -1.0])
        model.transformer.wte.weight[:] = embedded
        model.lm_head.weight[PLANTED_TOKEN] = up
        for layer, head in heads:
            block = model.transformer.h[layer].attn
            z = head * (width // 4)
            block.c_attn.bias[2 * width + z] = 1
            block.c_proj.weight[z] = 1e4 * up
    return load_model("planted", hf_model=model, tokenizer=tiny_tokenizer())


def planted_loss_change() -> float:
    """From a logit of `u · u √(32 / 2) = 8` for one token of 320 to an even prediction."""
    return math.log(320) - math.log1p(319 * math.exp(-8))


def confirmed(model: HookedModel, heads: list[tuple[int, int]], **options: Any) -> Confirmation:
    ids = torch.full((3, 8), PLANTED_TOKEN)
    return confirm_heads(
        model, {"previous_token": heads}, stimulus=ids, how="zero", shapley=True, **options
    )


def test_of_two_heads_that_do_the_same_each_has_half_and_stands_in_for_the_other() -> None:
    model, change = planted((0, 0), (0, 1)), planted_loss_change()
    (trial,) = confirmed(model, [(0, 0), (0, 1)]).trials
    assert trial.effect.change == pytest.approx(change, abs=1e-3)
    for share in trial.explanation.shapley:
        assert share.value == pytest.approx(change / 2, abs=1e-3)
        assert (share.alone, share.order_error) == (pytest.approx(0, abs=1e-3), 0)
        assert share.standard_error < 1e-3
    assert {share.head for share in trial.explanation.shapley} == set(trial.heads)
    # The other heads write nothing, with the set or without.
    assert trial.explanation.backups == ()
    (single,) = confirmed(model, [(0, 0)]).trials
    assert single.effect.change == pytest.approx(0, abs=1e-3)
    (backup,) = single.explanation.backups
    assert backup.head == Head(0, 1)
    assert (backup.alone, backup.after) == pytest.approx((0, change), abs=1e-3)
    assert backup.growth == pytest.approx(change, abs=1e-3)
    assert backup.growth_low > 0
    assert "stands in: L0H1" in repr(confirmed(model, [(0, 0)]))


def test_sampled_orders_give_each_of_three_a_third_within_their_standard_error() -> None:
    model, change = planted((0, 0), (0, 1), (1, 0)), planted_loss_change()
    # Seven heads have 5,040 orders: some are drawn.
    heads = [(layer, head) for layer in range(2) for head in range(4)][:7]
    (trial,) = confirmed(model, heads, budget=12).trials
    explained = trial.explanation
    assert 4 <= explained.n_orders < math.factorial(7)
    values = {share.head: share for share in explained.shapley}
    # Shares add up to the change whatever orders are drawn.
    assert sum(share.value for share in values.values()) == pytest.approx(change, abs=1e-4)
    for head in [Head(0, 0), Head(0, 1), Head(1, 0)]:
        share = values.pop(head)
        assert 0 < share.order_error < change / 10
        assert abs(share.value - change / 3) < 4 * share.standard_error
    for share in values.values():
        assert share.value == pytest.approx(0, abs=1e-4)


def test_shares_are_of_the_same_orders_however_many_rows_run_together() -> None:
    heads = [(layer, head) for layer in range(2) for head in range(4)][:7]
    model = planted((0, 0), (0, 1), (1, 0))
    found = [confirmed(model, heads, budget=12, batch_size=size).trials[0] for size in (None, 2)]
    one, other = (each.explanation for each in found)
    assert one.n_orders == other.n_orders
    assert [each.value for each in one.shapley] == pytest.approx(
        [each.value for each in other.shapley], abs=1e-5
    )


@pytest.mark.parametrize(("n_heads", "n_sets"), [(3, 6), (4, 14), (5, 30)])
def test_where_every_set_is_run_every_order_counts_once(n_heads: int, n_sets: int) -> None:
    claim = SimpleNamespace(heads=tuple(range(n_heads)), label="x", batch=[0])
    drawn = _orders(claim, n_sets, torch.Generator().manual_seed(0))
    assert sorted(drawn) == list(permutations(range(n_heads)))


def test_a_budget_too_small_for_two_pairs_of_orders_is_refused() -> None:
    with pytest.raises(PromptError, match=r"2 heads of previous_token .* Raise it, or take fewer"):
        confirmed(planted((0, 0)), [(0, 0), (0, 1)], budget=2)


@pytest.mark.parametrize(
    ("claimed", "options", "error", "message"),
    [
        ({"induction": ["L9H0"]}, {}, UnknownNameError, "has no head L9H0"),
        ({"inducton": ["L2H0"]}, {}, UnknownNameError, "Did you mean 'induction'"),
        ({"induction": ["L2H0"]}, {"labels": ["first"]}, UnknownNameError, "No label to confirm"),
        ({"induction": ["L2H0"]}, {"how": "men"}, UnknownNameError, "Did you mean 'mean'"),
        ({"induction": ["L2H0"]}, {"n_random": 99}, PromptError, "n_random=99 .* 500 or more"),
        ({"induction": ["L2H0"]}, {"n_sequences": 0}, PromptError, "1 or more, not 0"),
        (
            {"induction": ["L2H0"]},
            {"how": "resample", "n_sequences": 1},
            PromptError,
            "none of 129 tokens or more: pass a longer reference=",
        ),
    ],
)
def test_a_mistaken_call_says_what_to_do(claimed, options, error, message: str) -> None:
    with pytest.raises(error, match=message):
        confirm_heads(loaded("toy-gpt2"), claimed, **options)


def test_a_report_of_another_model_is_refused() -> None:
    report = classify_heads(loaded("toy-gpt2"), "a b c a b c a b c a b c", behaviours=["induction"])
    fields = [*FIGURES, "head_queries", "coverage", "labels", "scope"]
    wider = replace(
        report, **{name: getattr(report, name).repeat_interleave(3, dim=-1) for name in fields}
    )
    with pytest.raises(ReportError, match="of 4 × 12 heads, but toy-gpt2 has 4 × 4 heads"):
        confirm_heads(loaded("toy-gpt2"), wider)
    # Of the same shape, its labels would be tried on heads that do something else.
    with pytest.raises(
        ReportError, match="of toy-gpt2, and not of toy-opt: take a report of toy-opt"
    ):
        confirm_heads(loaded("toy-opt"), report)
    with pytest.raises(ReportError, match="of toy-gpt2, and not of toy-opt"):
        trace_pipeline(loaded("toy-opt"), "a b c", report=report)


def test_padding_and_the_last_token_never_count() -> None:
    model = loaded("toy-gpt2")
    prompts = ["a b c d e f g h i j a b c", "a b a b a"]
    claims, _ = claims_of(
        model,
        {"previous_token": ["L0H0"], "induction": ["L2H0"]},
        labels=None,
        stimulus=prompts,
        n_sequences=None,
        seed=0,
    )
    for claim in claims:
        for sequence in range(2):
            n = int(claim.batch.lengths[sequence])
            assert not claim.queries[sequence, n - 1 :].any()
            assert not claim.queries[sequence, 0]
    assert claims[0].queries[1].sum() == claims[0].batch.lengths[1] - 3


@pytest.mark.backend
@needs_hooked_transformer
@pytest.mark.parametrize("how", KINDS)
def test_a_hooked_transformer_gives_the_losses_of_a_bridge(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    name = "EleutherAI/pythia-160m"
    lay_out(tmp_path, name, shrunk(hub_config(name), n_layers=3), tiny_tokenizer())
    ids = torch.randint(1, 250, (2, 16), generator=torch.Generator().manual_seed(1))
    batch = from_sequences(ids.tolist(), 0)
    queries = torch.zeros(2, 16, dtype=torch.bool)
    queries[:, 4:15] = True
    sets = [(), (Head(1, 3),), (Head(0, 1), Head(2, 3)), (Head(2, 0),)]
    losses = []
    for backend in ("bridge", "hooked"):
        model = load_model(name, backend=backend)
        average = batch if how == "mean" else None
        runs = LossRuns(model, sets, batch, queries, how=how, reference=average)
        measure([runs], resume=None, progress=False)
        losses.append(runs.losses)
    torch.testing.assert_close(losses[0], losses[1], atol=1e-3, rtol=1e-4)
    assert not torch.allclose(losses[0][0], losses[0][1], atol=1e-2)
