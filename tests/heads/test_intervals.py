"""The bootstrap: what is drawn, and that its intervals cover the truth."""

from __future__ import annotations

import pytest
import torch

from mi_toolkit.heads.intervals import RESAMPLES, block_length, interval, resample_counts


@pytest.mark.parametrize(("n", "block"), [(8, 2), (27, 3), (100, 5), (64, 1)])
def test_every_resample_draws_as_many_units_as_there_are(n: int, block: int) -> None:
    counts = resample_counts(n, block, 0)
    assert counts.shape == (RESAMPLES, n)
    assert (counts.sum(dim=1) == n).all()
    assert (counts >= 0).all()


def test_every_unit_is_drawn_equally_often_on_average() -> None:
    # Circular blocks: the units at both ends are in as many blocks as those in the middle.
    assert resample_counts(20, 4, 0).mean(dim=0) == pytest.approx(torch.ones(20), abs=0.2)


def test_blocks_draw_neighbours_together() -> None:
    counts = resample_counts(40, 5, 0)
    together = torch.corrcoef(counts[:, [10, 11, 25]].T)
    assert together[0, 1] > 0.5
    assert abs(together[0, 2]) < 0.2


@pytest.mark.parametrize(("n", "expected"), [(1, 1), (8, 2), (27, 3), (125, 5), (1000, 10)])
def test_a_block_is_the_cube_root_of_the_queries(n: int, expected: int) -> None:
    assert block_length(n) == expected


def test_the_same_seed_gives_the_same_interval_and_touches_no_global_generator() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    values, ones = torch.linspace(0, 1, 30)[:, None], torch.ones(30, 1)
    first = interval(values, ones, None, block=3, seed=5)
    resample_counts.cache_clear()
    second = interval(values, ones, None, block=3, seed=5)
    assert [float(end) for end in first] == [float(end) for end in second]
    assert torch.equal(torch.get_rng_state(), before)


def test_the_interval_of_a_mean_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(40, 400, generator=generator)
    low, high = interval(samples, torch.ones_like(samples), None, block=1, seed=0)
    covered = ((low <= 0) & (high >= 0)).float().mean()
    assert 0.88 <= covered <= 0.97


def test_the_interval_of_a_lift_moves_score_and_chance_together() -> None:
    # Chance differs by unit and the score is always midway between chance and 1: the lift is 0.5
    # in every resample, so its interval has no width, though score and chance both vary.
    null = torch.linspace(0.1, 0.6, 20)
    score = (1 + null) / 2
    low, high = interval(score[:, None], torch.ones(20, 1), null, block=1, seed=0)
    assert float(low) == pytest.approx(0.5, abs=1e-5)
    assert float(high) == pytest.approx(0.5, abs=1e-5)
