"""Figures and random sets of a confirmation, on numbers small enough to check by hand."""

from __future__ import annotations

import math

import pytest
import torch

from mi_toolkit.heads.head import Head
from mi_toolkit.interventions.confirm.claims import Claim
from mi_toolkit.interventions.confirm.confirmation import Trial
from mi_toolkit.interventions.confirm.effect import Effect, effect_of, false_discovery_rates
from mi_toolkit.interventions.confirm.random_sets import random_sets
from mi_toolkit.interventions.confirm.verdict import judged
from mi_toolkit.prompts.tokens import from_sequences


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_a_change_is_the_mean_over_sequences_of_means_and_stands_out_in_deviations() -> None:
    # Sequence 0 has two queries, sequence 1 one.
    changes = torch.tensor([[1.0, 3.0, 8.0], [0.0, 0.0, 1.0], [0.0, 2.0, 2.0], [1.0, 1.0, 4.0]])
    effect = effect_of(changes, torch.tensor([0, 0, 1]), seed=0)
    assert effect.change == 5.0
    assert effect.random.tolist() == [0.5, 1.5, 2.5]
    assert effect.effect == pytest.approx((5 - 1.5) / 1.0)
    assert (effect.p, effect.percentile) == (0.25, 75.0)
    assert effect.interval == "too few"
    assert math.isnan(effect.change_low)


def test_a_random_set_that_does_as_much_counts_against_it() -> None:
    changes = torch.tensor([[2.0], [2.0], [1.0], [3.0]]).repeat(1, 9)
    sequence = torch.arange(9)
    rising = effect_of(changes, sequence, seed=0)
    assert rising.p == 3 / 4
    assert rising.percentile == 25.0
    falling = effect_of(changes, sequence, direction=-1, seed=0)
    assert falling.p == 3 / 4
    assert falling.percentile == 25.0


def test_the_interval_covers_the_stimulus_and_vanishes_where_sequences_agree() -> None:
    same = torch.tensor([[2.0], [0.0], [1.0]]).repeat(1, 12)
    effect = effect_of(same, torch.arange(12), seed=0)
    assert effect.change == 2.0
    assert (effect.change_low, effect.change_high) == (pytest.approx(2), pytest.approx(2))
    assert effect.effect_low == pytest.approx(effect.effect) == pytest.approx(effect.effect_high)
    noise = torch.randn(40, 64, generator=seeded())
    noise[0] += 1
    found = effect_of(noise, torch.arange(64), seed=0)
    assert found.change_low < found.change < found.change_high
    # Standard error of the mean of 64 draws: 1/8.
    assert found.change_high - found.change_low == pytest.approx(2 * 1.96 / 8, rel=0.25)
    assert found.interval == "bootstrap over sequences"


def test_a_heads_of_the_null_are_as_often_high_as_low() -> None:
    ranks = [
        effect_of(
            torch.randn(20, 16, generator=seeded().manual_seed(seed)), torch.arange(16), seed=0
        )
        for seed in range(200)
    ]
    p = torch.tensor([effect.p for effect in ranks])
    assert float((p <= 0.05).float().mean()) == pytest.approx(0.05, abs=0.04)
    assert float(p.mean()) == pytest.approx(0.525, abs=0.05)


def test_false_discovery_rates_are_those_of_benjamini_and_hochberg() -> None:
    # By hand: 4 · 0.01 / 1, 4 · 0.03 / 2 held down by the next, 4 · 0.03 / 3, 4 · 0.5 / 4.
    assert false_discovery_rates([0.03, 0.01, 0.5, 0.03]) == pytest.approx([0.04, 0.04, 0.5, 0.04])
    assert false_discovery_rates([]) == []


def test_random_sets_have_as_many_heads_in_each_layer_and_none_of_the_set() -> None:
    heads = [Head(1, 0), Head(1, 5), Head(4, 2)]
    found = random_sets(heads, n_heads=9, n_sets=50, generator=seeded())
    assert found.n_distinct == math.comb(7, 2) * 8
    assert len(set(found.sets)) == 50
    assert not found.are_all
    assert found.crowded == ()
    for drawn in found.sets:
        assert [head.layer for head in drawn] == [1, 1, 4]
        assert not set(drawn) & set(heads)


def test_few_distinct_sets_are_all_run() -> None:
    found = random_sets([Head(0, 0), Head(2, 1)], n_heads=4, n_sets=100, generator=seeded())
    assert found.are_all
    assert len(set(found.sets)) == found.n_distinct == 9


def test_a_layer_with_too_few_other_heads_is_filled_up_and_named() -> None:
    heads = [Head(3, 0), Head(3, 1), Head(3, 2), Head(5, 0)]
    found = random_sets(heads, n_heads=4, n_sets=100, generator=seeded())
    assert found.crowded == (3,)
    assert found.n_distinct == 3 * 3
    for drawn in found.sets:
        assert Head(3, 3) in drawn
        assert len({head for head in drawn if head.layer == 3}) == 3


def test_a_label_of_every_head_has_nothing_to_stand_beside() -> None:
    every = [Head(0, head) for head in range(4)]
    found = random_sets(every, n_heads=4, n_sets=100, generator=seeded())
    assert (found.sets, found.n_distinct) == ((), 0)


@pytest.mark.parametrize("n_layers", [2, 12])
def test_a_draw_of_many_is_of_distinct_sets(n_layers: int) -> None:
    heads = [Head(layer, 0) for layer in range(n_layers)]
    found = random_sets(heads, n_heads=5, n_sets=15, generator=seeded())
    assert len(set(found.sets)) == 15
    many = random_sets(heads[:1], n_heads=200, n_sets=150, generator=seeded())
    assert len({drawn[0].head for drawn in many.sets}) == 150


def trial_of(n_random: int, *, reached: int = 0, low: float = 1.0, are_all: bool = True) -> Trial:
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
        interval="bootstrap over sequences",
    )
    return Trial(
        label="induction",
        heads=(Head(0, 0),),
        stimulus="natural",
        n_sequences=8,
        n_queries=8,
        clean_loss=1.0,
        effect=effect,
        random_sets=((Head(0, 1),),) * n_random,
        are_all=are_all,
        crowded=(),
        rank_in_layer=None,
        q=1.0,
        verdict="undecided",
        reason="",
    )


@pytest.mark.parametrize(
    ("trial", "others", "verdict", "reason"),
    [
        (trial_of(100), 0, "survives", "beyond all 100 random sets"),
        (trial_of(100, reached=3), 0, "survives", "3 of 100 random sets do as much"),
        (trial_of(100, reached=9), 0, "fails", "9 of 100 random sets do as much"),
        (trial_of(100, low=-0.1), 0, "fails", "but on other sequences perhaps not"),
        (trial_of(3), 0, "undecided", "beyond all 3 random sets; too few to rule out chance"),
        (trial_of(13, reached=2), 0, "undecided", "2 of 13 random sets do as much; too few to"),
        (trial_of(13, reached=3), 0, "fails", "3 of 13 random sets do as much"),
        (trial_of(3, low=-0.1), 0, "fails", "perhaps not"),
        (trial_of(1), 0, "undecided", "1 other set of heads to compare with"),
        # Six others that fail: seven times 1/101 is above 0.05, but 139 sets could reach 1/140.
        (trial_of(100, are_all=False), 6, "undecided", "beyond all 100 random sets; 139 would"),
        (trial_of(100, reached=2), 6, "fails", "2 of 100 random sets do as much"),
    ],
)
def test_a_label_survives_by_rank_interval_and_company(
    trial: Trial, others: int, verdict: str, reason: str
) -> None:
    batch = from_sequences([[1, 2]], None)
    claim = Claim(
        label="induction",
        heads=(Head(0, 0),),
        stimulus="natural",
        batch=batch,
        queries=torch.ones(1, 2, dtype=torch.bool),
        direction=1,
    )
    company = [trial_of(100, reached=80) for _ in range(others)]
    # A trial that could never survive takes nothing from the others.
    hopeless = [trial_of(3, reached=1) for _ in range(5)]
    trials = [trial, *company, *hopeless]
    found = judged(trials, [claim] * len(trials), 0.05)[0]
    assert found.verdict == verdict
    assert reason in found.reason
