"""Figures and other sets of a confirmation, on numbers small enough to check by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from scipy import stats

from mi_toolkit.core.head import Head
from mi_toolkit.core.random_sets import n_sets_like, random_sets
from mi_toolkit.interventions.confirm.confirmation import (
    Explanation,
    HypothesisTest,
    LayerPart,
    trial_row,
)
from mi_toolkit.interventions.confirm.losses import Effect, PairedChanges, effect_of
from mi_toolkit.interventions.confirm.setting import judged


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_change_is_the_mean_over_sequences_of_means_and_stands_out_in_deviations() -> None:
    # Sequence 0 has two queries, sequence 1 one.
    changes = torch.tensor([[1.0, 3.0, 8.0], [0.0, 0.0, 1.0], [0.0, 2.0, 2.0], [1.0, 1.0, 4.0]])
    effect = effect_of(changes, torch.tensor([0, 0, 1]))
    assert effect.change == 5.0
    assert effect.random.tolist() == [0.5, 1.5, 2.5]
    assert effect.effect == pytest.approx((5 - 1.5) / 1.0)
    assert (effect.p, effect.percentile) == (0.25, 75.0)
    assert effect.interval == "too few"
    assert math.isnan(effect.change_low)


def test_another_set_that_does_as_much_counts_against_it() -> None:
    changes = torch.tensor([[2.0], [2.0], [1.0], [3.0]]).repeat(1, 9)
    sequence = torch.arange(9)
    rising = effect_of(changes, sequence)
    assert rising.p == 3 / 4
    assert rising.percentile == 25.0
    falling = effect_of(changes, sequence, direction=-1)
    assert falling.p == 3 / 4
    assert falling.percentile == 25.0


def test_the_interval_of_a_change_is_that_of_a_mean_over_sequences() -> None:
    same = torch.tensor([[2.0], [0.0], [1.0]]).repeat(1, 12)
    effect = effect_of(same, torch.arange(12))
    assert effect.change_low == pytest.approx(2) == pytest.approx(effect.change_high)
    assert effect.effect_low == pytest.approx(effect.effect) == pytest.approx(effect.effect_high)
    noise = torch.randn(40, 7, generator=seeded())
    found = effect_of(noise, torch.arange(7))
    low, high = stats.t.interval(0.95, 6, loc=noise[0].mean(), scale=stats.sem(noise[0]))
    assert (found.change_low, found.change_high) == pytest.approx((low, high), abs=1e-6)
    assert found.interval == "jackknife over sequences"


def test_the_interval_of_an_effect_is_that_of_the_distance_from_the_other_sets() -> None:
    noise = torch.randn(5, 6, generator=seeded(), dtype=torch.double)
    found = effect_of(noise.float(), torch.arange(6))
    distance = noise[0] - noise[1:].mean(dim=0)
    ends = stats.t.interval(0.95, 5, loc=distance.mean(), scale=stats.sem(distance))
    unit = float(noise[1:].mean(dim=1).std())
    assert found.effect == pytest.approx(float(distance.mean()) / unit, rel=1e-5)
    expected = tuple(float(end) / unit for end in ends)
    assert (found.effect_low, found.effect_high) == pytest.approx(expected, rel=1e-4)


def test_one_text_has_an_interval_over_runs_of_its_queries_if_it_has_eight() -> None:
    changes = torch.randn(3, 24, generator=seeded())
    found = effect_of(changes, torch.zeros(24, dtype=torch.int64))
    assert found.interval == "jackknife over the queries of this text"
    means = changes[0].reshape(8, 3).mean(dim=1)
    width = stats.t.ppf(0.975, 7) * stats.sem(means)
    assert found.change_high - found.change == pytest.approx(width, rel=1e-5)
    few = effect_of(changes[:, :7], torch.tensor([0] * 4 + [1] * 3))
    assert few.interval == "too few"
    assert math.isnan(few.effect_low)


@pytest.mark.parametrize(("n_sequences", "n_queries"), [(3, 5), (5, 5), (16, 5), (1, 24)])
def test_the_interval_of_a_change_covers_the_mean(n_sequences: int, n_queries: int) -> None:
    """2,000 stimuli of independent changes around 1; 95% ± 1.5% of the intervals hold it."""
    draws = 1 + torch.randn(2000, n_sequences * n_queries, generator=seeded())
    paired = PairedChanges.of(draws, torch.arange(n_sequences).repeat_interleave(n_queries))
    value, error = paired.estimate(lambda change: change)
    covered = ((value - 1).abs() <= paired.t * error).float().mean()
    assert float(covered) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("n_queries", [8, 16])
def test_neighbours_that_are_alike_widen_the_interval_of_one_text(n_queries: int) -> None:
    """1,000 texts of changes that pass on 0.6 of themselves: runs as for others hold 68 to 81%."""
    noise = torch.randn(1000, n_queries, generator=seeded())
    changes = noise.clone()
    for query in range(1, n_queries):
        changes[:, query] = 0.6 * changes[:, query - 1] + 0.8 * noise[:, query]
    one_text = torch.zeros(n_queries, dtype=torch.int64)
    found = [effect_of(torch.stack([row, noise[0]]), one_text) for row in changes]
    covered = sum(each.change_low <= 0 <= each.change_high for each in found) / len(found)
    assert covered > 0.83


def test_other_sets_have_as_many_heads_in_each_layer_and_may_share_heads_with_the_set() -> None:
    heads = [Head(1, 0), Head(1, 5), Head(4, 2)]
    found = random_sets(heads, n_heads=9, n_sets=50, generator=seeded())
    assert found.n_distinct == n_sets_like(heads, n_heads=9) == math.comb(9, 2) * 9
    assert len(set(found.sets)) == 50
    assert not found.are_all
    for drawn in found.sets:
        assert [head.layer for head in drawn] == [1, 1, 4]
        assert drawn == tuple(sorted(set(drawn)))
    assert tuple(heads) not in found.sets
    assert any(set(drawn) & set(heads) for drawn in found.sets)
    again, other = (
        random_sets(heads, n_heads=9, n_sets=50, generator=seeded(seed)) for seed in (0, 1)
    )
    assert again.sets == found.sets != other.sets


def test_few_distinct_sets_are_all_run() -> None:
    found = random_sets([Head(0, 0), Head(2, 1)], n_heads=4, n_sets=100, generator=seeded())
    assert found.are_all
    assert len(set(found.sets)) == found.n_distinct - 1 == 15
    every = [Head(0, head) for head in range(4)]
    alone = random_sets(every, n_heads=4, n_sets=100, generator=seeded())
    assert (alone.sets, alone.n_distinct) == ((), 1)


@pytest.mark.parametrize("n_layers", [2, 12])
def test_each_head_is_drawn_as_often_as_the_others_of_its_layer(n_layers: int) -> None:
    heads = [Head(layer, 0) for layer in range(n_layers)]
    n_sets = 20 if n_layers == 2 else 2000
    found = random_sets(heads, n_heads=5, n_sets=n_sets, generator=seeded())
    assert len(set(found.sets)) == n_sets
    last = torch.tensor([drawn[-1].head for drawn in found.sets])
    share = last.bincount(minlength=5) / n_sets
    assert share.tolist() == pytest.approx([0.2] * 5, abs=0.05)


def test_p_of_a_label_that_says_nothing_is_uniform_where_some_heads_outweigh_the_rest() -> None:
    """Sets drawn by chance, in a model of 270 heads in which every layer has one strong head."""
    generator = seeded()
    own = torch.randn(30, 9, generator=generator).mul(0.1)
    own[:, 0] += torch.rand(30, generator=generator).mul(3)
    sizes = {2: 2, 17: 3}
    base = [Head(layer, index) for layer, size in sizes.items() for index in range(size)]
    assert n_sets_like(base, n_heads=9) > 2000

    def change(sets: Sequence[tuple[Head, ...]]) -> torch.Tensor:
        index = torch.tensor(sets)
        return own[index[..., 0], index[..., 1]].sum(dim=1)

    labelled = random_sets(base, n_heads=9, n_sets=300, generator=generator).sets
    p = []
    for heads in labelled:
        null = random_sets(heads, n_heads=9, n_sets=500, generator=generator)
        p.append(effect_of(change([heads, *null.sets])[:, None], torch.tensor([0])).p)
    found = torch.tensor(p)
    # Standard errors over 300 labels: 0.013 and 0.006. Without the labelled heads: over 0.2.
    assert float((found <= 0.05).float().mean()) <= 0.08
    assert float((found <= 0.01).float().mean()) <= 0.025
    assert float(found.mean()) == pytest.approx(0.5, abs=0.045)


def trial_of(
    n_random: int, *, reached: int = 0, low: float = 1.0, are_all: bool = True
) -> HypothesisTest:
    random = torch.zeros(n_random)
    p = (1 + reached) / (1 + n_random)
    effect = Effect(
        change=1.0,
        change_low=0.9,
        change_high=1.1,
        effect=2.0,
        effect_low=low,
        effect_high=3.0,
        random=random,
        percentile=100 * (1 - p),
        p=p,
        interval="jackknife over sequences",
    )
    return HypothesisTest(
        label="induction",
        heads=(Head(0, 0),),
        stimulus="natural",
        n_sequences=8,
        n_seen=0,
        n_queries=8,
        clean_loss=1.0,
        effect=effect,
        random_sets=((Head(0, 1),),) * n_random,
        are_all=are_all,
        rank_in_layer=None,
        explanation=None,
        q=1.0,
        verdict="undecided",
        reason="",
    )


@pytest.mark.parametrize(
    ("trial", "others", "verdict", "reason"),
    [
        (trial_of(100), 0, "survives", "beyond all 100 other sets"),
        (trial_of(100, reached=3, are_all=False), 0, "survives", "3 of 100 random sets do as much"),
        (trial_of(100, reached=9), 0, "fails", "9 of 100 other sets do as much"),
        (trial_of(100, low=-0.1), 0, "fails", "but on other sequences perhaps not"),
        (
            trial_of(3),
            0,
            "undecided",
            "beyond all 3 other sets; chance alone does that 1 time in 4, and a verdict takes 19",
        ),
        (
            trial_of(13, reached=2),
            0,
            "undecided",
            "2 of 13 other sets do as much; chance alone does that 3 times in 14, and a verdict",
        ),
        # All there are, enough for one label, and too few for four: 4 times 1/31 is above 0.05.
        (
            trial_of(30),
            3,
            "undecided",
            "beyond all 30 other sets; chance alone does that 1 time in 31, and a verdict takes 79",
        ),
        (trial_of(13, reached=3), 0, "fails", "3 of 13 other sets do as much"),
        (trial_of(3, low=-0.1), 0, "fails", "perhaps not"),
        (trial_of(1), 0, "undecided", "1 other set of heads to compare with"),
        # Six others that fail: seven times 1/101 is above 0.05, but 139 sets could reach 1/140.
        (trial_of(100, are_all=False), 6, "undecided", "beyond all 100 random sets; 139 would"),
        (trial_of(100, reached=2), 6, "fails", "2 of 100 other sets do as much"),
    ],
)
def test_a_label_survives_by_rank_interval_and_company(
    trial: HypothesisTest, others: int, verdict: str, reason: str
) -> None:
    company = [trial_of(100, reached=80) for _ in range(others)]
    # A trial that could never survive takes nothing from the others.
    hopeless = [trial_of(3, reached=1) for _ in range(5)]
    trials = [trial, *company, *hopeless]
    found = judged(trials, [1] * len(trials), 0.05)[0]
    assert found.verdict == verdict
    assert reason in found.reason


def test_false_discovery_rates_are_over_the_trials_that_could_survive() -> None:
    trials = [trial_of(99, reached=k) for k in (2, 0, 49, 2)] + [trial_of(3)]
    found = [trial.q for trial in judged(trials, [1] * 5, 0.05)]
    # By hand: 4 · 0.03 / 3, 4 · 0.01 / 1, 4 · 0.5 / 4, 4 · 0.03 / 3; the last stays as it is.
    assert found == pytest.approx([0.04, 0.04, 0.5, 0.04, 0.25])


def test_a_set_that_fails_names_the_layers_in_which_it_does_less_than_most() -> None:
    def part(layer: int, rank: int) -> LayerPart:
        return LayerPart(
            heads=(Head(layer, 0),),
            change=0.0,
            change_low=0.0,
            change_high=0.0,
            others=torch.zeros(8),
            rank=rank,
        )

    def reason(*ranks: int, reached: int = 50) -> str:
        explanation = Explanation(
            layers=tuple(part(layer, rank) for layer, rank in enumerate(ranks)),
            n_reaching=reached,
            shared=(),
            n_without=0,
            n_reaching_without=0,
            n_orders=0,
            shapley=(),
            backups=None,
        )
        trial = replace(trial_of(100, reached=reached), explanation=explanation)
        return judged([trial], [1], 0.05)[0].reason

    do_as_much = "50 of 100 other sets do as much"
    assert reason(9, 1, 6) == f"{do_as_much}; less than most heads of layers 0 2"
    # The median of nine is the fifth.
    assert reason(5, 1, 9) == f"{do_as_much}; less than most heads of layer 2"
    assert reason(9, 8) == f"{do_as_much}; in no layer more than most of its heads"
    assert reason(1, 2) == do_as_much
    assert reason(9, 1, reached=0) == "beyond all 100 other sets"


@pytest.mark.parametrize(
    ("deviations", "shown"),
    [(2.0, "+2.0 [+1.0, +3.0]"), (34097.3, "over +100"), (-150.0, "under -100")],
)
def test_a_distance_among_sets_that_are_all_alike_is_not_written_out(
    deviations: float, shown: str
) -> None:
    trial = trial_of(3)
    trial = replace(trial, effect=replace(trial.effect, effect=deviations))
    assert trial_row(trial, "label")[3] == shown
