"""The bootstrap: what is drawn."""

from __future__ import annotations

import math

import pytest
import torch

from mi_toolkit.heads import intervals
from mi_toolkit.heads.intervals import (
    RESAMPLES,
    block_length,
    resampled_sums,
)


def drawn(n: int, block: int) -> torch.Tensor:
    """How often each unit is in each resample."""
    return resampled_sums(torch.eye(n), block=block, seed=0)


@pytest.mark.parametrize(("n", "block"), [(8, 2), (27, 3), (100, 5), (64, 1)])
def test_every_resample_draws_as_many_units_as_there_are(n: int, block: int) -> None:
    counts = drawn(n, block)
    assert counts.shape == (RESAMPLES, n)
    assert counts.sum(dim=1) == pytest.approx(torch.full((RESAMPLES,), float(n)))
    assert (counts >= -1e-6).all()


@pytest.mark.parametrize(("n", "block"), [(50, 4), (64, 1), (130, 1), (200, 3), (9, 9)])
def test_the_sums_are_those_of_the_units_drawn_one_by_one(n: int, block: int) -> None:
    units = torch.rand(n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    n_drawn = math.ceil(n / block)
    uniform = torch.cat([intervals._uniform(part, 3) for part in range(n_drawn // 64 + 1)], dim=1)
    expected = []
    for starts in (uniform[:, :n_drawn] * n).long().clamp_max(n - 1).tolist():
        drawn = [(start + step) % n for start in starts for step in range(block)]
        expected.append(units[drawn[:n]].sum(dim=0))
    assert torch.allclose(resampled_sums(units, block=block, seed=3), torch.stack(expected))


def test_every_unit_is_drawn_equally_often_on_average() -> None:
    # Circular blocks: the units at both ends are in as many blocks as those in the middle.
    assert drawn(20, 4).mean(dim=0) == pytest.approx(torch.ones(20), abs=0.2)


def test_blocks_draw_neighbours_together() -> None:
    counts = drawn(40, 5)
    together = torch.corrcoef(counts[:, [10, 11, 25]].T)
    assert together[0, 1] > 0.5
    assert abs(together[0, 2]) < 0.2


@pytest.mark.parametrize(("n", "expected"), [(1, 1), (8, 2), (27, 3), (125, 5), (1000, 10)])
def test_a_block_is_the_cube_root_of_the_queries(n: int, expected: int) -> None:
    assert block_length(n) == expected
