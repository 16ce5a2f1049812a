"""Confirmation: heads whose answer is known, losses against one-by-one ablation, and messages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from torch.nn.functional import cross_entropy

from mi_toolkit.errors import PromptError, ReportError, UnknownNameError
from mi_toolkit.heads.classify import classify_heads
from mi_toolkit.heads.head import Head
from mi_toolkit.heads.report import FIGURES
from mi_toolkit.interventions.ablation import KINDS, ablating
from mi_toolkit.interventions.confirm import Confirmation, confirm_each_head, confirm_heads
from mi_toolkit.interventions.confirm.claims import claims_of
from mi_toolkit.interventions.confirm.losses import LossRuns
from mi_toolkit.interventions.confirm.measure import measure
from mi_toolkit.models.loading import load_model
from mi_toolkit.prompts.stimuli import repeated_random
from mi_toolkit.prompts.tokens import from_sequences
from tests.hub_cache import cut, hub_config, lay_out
from tests.models_here import TOYS, loaded
from tests.tiny_models import tiny_tokenizer

try:
    from transformer_lens import HookedTransformer
except ImportError:
    HookedTransformer = None

INDUCTION = {name: Head(2, 0) for name in TOYS}


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
    head = INDUCTION[name]
    found = confirm_heads(loaded(name), {"induction": [head]}, n_sequences=8, alpha=0.3)
    (trial,) = found["induction"]
    assert trial.effect.change > 2 + trial.effect.random.max()
    assert trial.effect.effect_low > 3
    assert trial.are_all
    # It ranks first of the four heads of its layer: one in four would, by chance.
    assert (trial.effect.p, trial.effect.percentile) == (0.25, 75.0)
    assert trial.verdict == "survives"
    assert found.heads() == {"induction": [head]}


@pytest.mark.parametrize("name", TOYS)
def test_a_label_given_to_an_idle_head_does_not_survive(name: str) -> None:
    model = loaded(name)
    idle = [Head(2, 2), Head(3, 3)]
    found = confirm_heads(model, {"induction": idle}, n_sequences=8, alpha=0.3)
    assert found["induction"][0].verdict == "fails"
    assert found.heads() == {}
    assert found.heads("fails") == {"induction": idle}


def test_heads_alone_are_ranked_among_those_of_their_layer_and_of_the_model() -> None:
    model = loaded("toy-gpt2")
    claimed = {"induction": ["L2H0", "L2H2"], "previous_token": ["L0H0"]}
    found = confirm_each_head(model, claimed, n_sequences=8, alpha=0.2)
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
    assert previous.effect.percentile == pytest.approx(100 * 15 / 16)


def test_one_call_for_all_labels_gives_each_its_own_predictions() -> None:
    model = loaded("toy-gpt2")
    together = {"induction": ["L2H0"], "previous_token": ["L0H0"]}
    both = confirm_each_head(model, together, n_sequences=8)
    for label, heads in together.items():
        alone = confirm_each_head(model, {label: heads}, n_sequences=8)
        one, other = both[label][0], alone[label][0]
        assert one.effect.change == pytest.approx(other.effect.change, abs=1e-5)
        assert one.n_queries == other.n_queries
        assert one.clean_loss == pytest.approx(other.clean_loss, abs=1e-5)
    set_of_one = confirm_heads(model, {"induction": ["L2H0"]}, n_sequences=8)["induction"][0]
    assert set_of_one.effect.change == pytest.approx(both["induction"][0].effect.change, abs=1e-5)
    assert both["induction"][0].n_queries == 8 * 63
    # Without the BOS and the last token, which nothing follows.
    assert both["previous_token"][0].n_queries == 8 * (129 - 3)


def test_a_report_is_confirmed_on_the_tokens_that_it_was_made_on() -> None:
    model = loaded("toy-pythia")
    report = classify_heads(model, seed=3)
    found = confirm_heads(model, report, labels=["induction"], n_sequences=None)
    (trial,) = found.trials
    assert trial.heads == tuple(report.heads("induction"))
    assert trial.stimulus == "repeated_random"
    assert found.provenance.prompts == {
        "repeated_random": repeated_random(model, seed=3).digest,
    }
    assert confirm_heads(model, report, labels=["duplicate_token"]).untested == {
        "duplicate_token": "no head carries it"
    }
    moved = replace(report, labels=report.labels.flip(-1))
    marked = confirm_heads(model, moved, labels=["induction"], n_sequences=8, alpha=0.3)
    assert marked["induction"][0].verdict == "fails"


def test_the_stimulus_may_be_named_or_given() -> None:
    model = loaded("toy-gpt2")
    claimed = {"induction": ["L2H0"], "diffuse": ["L3H0"]}
    named = confirm_heads(model, claimed, stimulus="natural", n_sequences=8)
    assert {trial.stimulus for trial in named.trials} == {"natural"}
    prompt = "Mary and John went home. Mary and John went home. Mary and John went"
    own = confirm_heads(model, claimed, stimulus=prompt)
    assert [trial.stimulus for trial in own.trials] == ["prompt", "prompt"]
    assert own["induction"][0].effect.interval == "bootstrap over blocks of pooled queries"
    none = confirm_heads(model, claimed, stimulus="no token twice")
    assert none.untested["induction"].startswith("no prediction on prompt can show it: needs a")
    few = confirm_heads(model, {"induction": ["L2H0"]}, stimulus="a b a b a")
    assert few["induction"][0].verdict == "undecided"
    assert few["induction"][0].reason == "too few predictions for an interval"
    with pytest.raises(UnknownNameError, match="Did you mean 'natural'"):
        confirm_heads(model, claimed, stimulus="natrual")


def test_a_label_that_says_heads_hold_back_survives_where_ablation_lowers_the_loss() -> None:
    model = loaded("toy-gpt2")
    found = confirm_heads(model, {"prefix_suppression": ["L2H0"]}, n_sequences=8, alpha=0.3)
    (trial,) = found.trials
    assert trial.effect.percentile == 75.0
    assert trial.effect.p == 1.0
    assert trial.verdict == "fails"


def test_seeds_reproduce_and_another_seed_draws_other_sets() -> None:
    model = loaded("toy-gpt2")
    claimed = {"induction": ["L0H1", "L1H2", "L2H0", "L3H3"]}
    first, again, other = (
        confirm_heads(model, claimed, n_random=20, n_sequences=8, seed=seed) for seed in (0, 0, 1)
    )
    assert first.to_pandas().equals(again.to_pandas())
    assert first.trials[0].random_sets == again.trials[0].random_sets
    assert set(first.trials[0].random_sets) != set(other.trials[0].random_sets)
    assert len(set(first.trials[0].random_sets)) == 20


def test_labels_share_one_mean_over_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    mean = KINDS["mean"]

    def counted(*given):
        made.append(len(given[1]))
        return mean(*given)

    monkeypatch.setattr("mi_toolkit.interventions.confirm.losses.KINDS", {"mean": counted})
    claimed = {"induction": ["L2H0"], "previous_token": ["L0H0"]}
    confirm_heads(loaded("toy-gpt2"), claimed, n_sequences=2)
    assert made == [2]


def test_rows_to_a_pass_change_no_figure() -> None:
    model = loaded("toy-qwen2")
    claimed = {"induction": ["L1H1", "L2H0"]}
    one, many = (
        confirm_heads(model, claimed, n_sequences=8, batch_size=size) for size in (1, None)
    )
    torch.testing.assert_close(
        one.trials[0].effect.random, many.trials[0].effect.random, atol=1e-5, rtol=1e-4
    )


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
    claimed = {"induction": ["L2H0"]}
    ran: list[int] = []
    run, stops = LossRuns.run, [True]

    def interrupted(self: LossRuns, sequence: int):
        if sequence == 5 and stops:
            raise KeyboardInterrupt
        ran.append(sequence)
        return run(self, sequence)

    monkeypatch.setattr(LossRuns, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        confirm_heads(model, claimed, n_sequences=8, resume=tmp_path)
    assert ran == [0, 1, 2, 3, 4]
    stops.clear()
    resumed = confirm_heads(model, claimed, n_sequences=8, resume=tmp_path)
    assert ran == [0, 1, 2, 3, 4, 5, 6, 7]
    whole = confirm_heads(model, claimed, n_sequences=8)
    assert resumed.to_pandas().equals(whole.to_pandas())
    ran.clear()
    confirm_heads(model, claimed, n_sequences=8, how="zero", resume=tmp_path)
    assert len(ran) == 8


def test_saved_and_read_back_it_is_the_same(tmp_path) -> None:
    claimed = {"induction": ["L2H0"], "duplicate_token": []}
    for confirm in (confirm_heads, confirm_each_head):
        found = confirm(loaded("toy-gpt2"), claimed, n_sequences=8)
        found.save(tmp_path / "found.safetensors")
        again = Confirmation.load(tmp_path / "found.safetensors")
        assert again.to_pandas().equals(found.to_pandas())
        assert again.trials[0].random_sets == found.trials[0].random_sets
        assert again.trials[0].rank_in_layer == found.trials[0].rank_in_layer
        assert torch.equal(again.trials[0].effect.random, found.trials[0].effect.random)
        assert (again.provenance, again.untested) == (found.provenance, found.untested)
        assert repr(again) == repr(found)
    with pytest.raises(ReportError, match="No confirmation at"):
        Confirmation.load(tmp_path / "nothing")


def test_it_says_what_it_found() -> None:
    claimed = {"induction": ["L2H0"], "duplicate_token": []}
    found = confirm_heads(loaded("toy-gpt2"), claimed, n_sequences=8)
    assert repr(found).startswith("Labels of toy-gpt2 under mean ablation\n")
    assert "undecided: beyond all 3 random sets; too few to rule out chance" in repr(found)
    assert "not tested: no head carries it" in repr(found)
    assert ">verdict</th>" in found._repr_html_()
    table = found.to_pandas().set_index("label")
    assert table.loc["induction", "verdict"] == "undecided"
    assert table.loc["induction", "n_random"] == 3
    assert table.loc["duplicate_token", "verdict"] == "untested"
    with pytest.raises(UnknownNameError, match="No label of this confirmation is called 'inducti'"):
        found["inducti"]


@pytest.mark.parametrize(
    ("claimed", "options", "error", "message"),
    [
        ({"induction": ["L9H0"]}, {}, UnknownNameError, "has no head L9H0"),
        ({"inducton": ["L2H0"]}, {}, UnknownNameError, "Did you mean 'induction'"),
        ({"induction": ["L2H0"]}, {"labels": ["first"]}, UnknownNameError, "No label to confirm"),
        ({"induction": ["L2H0"]}, {"how": "men"}, UnknownNameError, "Did you mean 'mean'"),
        ({"induction": ["L2H0"]}, {"n_random": 0}, PromptError, "n_random .* 1 or more, not 0"),
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
    with pytest.raises(ReportError, match=r"with 4 × 12 heads, but toy-gpt2 has 4 × 4"):
        confirm_heads(loaded("toy-gpt2"), wider)


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


@pytest.mark.skipif(HookedTransformer is None, reason="TransformerLens 4 has no HookedTransformer")
@pytest.mark.parametrize("how", KINDS)
def test_a_hooked_transformer_gives_the_losses_of_a_bridge(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    name = "EleutherAI/pythia-160m"
    lay_out(tmp_path, name, cut(hub_config(name), n_layers=3), tiny_tokenizer())
    ids = torch.randint(1, 250, (2, 16), generator=torch.Generator().manual_seed(1))
    batch = from_sequences(ids.tolist(), 0)
    queries = torch.zeros(2, 16, dtype=torch.bool)
    queries[:, 4:15] = True
    sets = [(), (Head(1, 3),), (Head(0, 1), Head(2, 5)), (Head(2, 0),)]
    losses = []
    for backend in ("bridge", "hooked"):
        model = load_model(name, backend=backend)
        average = batch if how == "mean" else None
        runs = LossRuns(model, sets, batch, queries, how=how, reference=average)
        measure([runs], resume=None, progress=False)
        losses.append(runs.losses)
    torch.testing.assert_close(losses[0], losses[1], atol=1e-3, rtol=1e-4)
    assert not torch.allclose(losses[0][0], losses[0][1], atol=1e-2)
