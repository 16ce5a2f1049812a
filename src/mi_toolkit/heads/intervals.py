"""Bootstrap intervals, by a local seeded generator.

From `MIN_SEQUENCES` sequences on, whole sequences are drawn again. Under that, the eligible queries
of all sequences are pooled in order and drawn again in circular blocks, which keep neighbouring
queries (their attention is alike) together. Under `MIN_QUERIES` of them there is no interval.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

RESAMPLES = 1000
MIN_SEQUENCES = 8
MIN_QUERIES = 8
CONFIDENCE = 0.95

FEW_COLUMNS = 8
"""Up to so many columns, picking what was drawn is quicker than multiplying by counts."""

CHUNK = 2**23
"""Counts that are made at a time."""


def block_length(n_queries: int) -> int:
    """Queries to a block: `max(1, round(n^(1/3)))`."""
    return max(1, round(math.cbrt(n_queries)))


@lru_cache(maxsize=64)
def _uniform(part: int, seed: int) -> Float[Tensor, "resample 64"]:
    generator = torch.Generator().manual_seed(seed + 7919 * part)
    return torch.rand(RESAMPLES, 64, generator=generator)


def drawn_starts(n_units: int, block: int, seed: int) -> Int[Tensor, "resample drawn"]:
    """Where the circular blocks begin that make up each resample of `n_units`."""
    n_drawn = math.ceil(n_units / block)
    parts = [_uniform(part, seed) for part in range(math.ceil(n_drawn / 64))]
    # The product may round up to `n_units`, which is no unit.
    return (torch.cat(parts, dim=1)[:, :n_drawn] * n_units).long().clamp_max_(n_units - 1)


def resampled_sums(
    units: Float[Tensor, "unit column"], *, block: int, seed: int
) -> Float[Tensor, "resample column"]:
    """Sums of each column over resampled units.

    A resample has as many units as there are, in circular blocks of `block`; its last block is cut
    to fit.
    """
    n_units, n_columns = units.shape
    starts = drawn_starts(n_units, block, seed)
    rest = n_units - block * (starts.shape[1] - 1)
    running = torch.cat([units[:1] * 0, units, units]).cumsum(dim=0, dtype=torch.float64)
    whole, last = (
        (running[length : length + n_units] - running[:n_units]).to(units.dtype)
        for length in (block, rest)
    )
    sums = last[starts[:, -1]]
    starts = starts[:, :-1]
    if n_columns <= FEW_COLUMNS:
        picked = [whole[:, column].take(starts).sum(dim=1) for column in range(n_columns)]
        return sums + torch.stack(picked, dim=1)
    at_once = max(1, CHUNK // n_units)
    for first in range(0, RESAMPLES, at_once):
        drawn = starts[first : first + at_once]
        counts = torch.zeros(len(drawn), n_units, dtype=units.dtype)
        counts.scatter_add_(1, drawn, torch.ones((), dtype=units.dtype).expand_as(drawn))
        sums[first : first + at_once] += counts @ whole
    return sums


def interval(
    numerator: Float[Tensor, "unit head"],
    denominator: Float[Tensor, "unit own_head"],
    null: Float[Tensor, " unit"] | None,
    *,
    block: int,
    seed: int,
) -> tuple[Float[Tensor, " head"], Float[Tensor, " head"]]:
    """The 2.5th and 97.5th percentile of a ratio of sums over resampled units.

    Args:
        numerator: what each unit adds to the numerator, 0 where it is not eligible.
        denominator: what each unit adds to the denominator; one column where all heads agree.
        null: what each unit adds to the numerator of chance; the interval is then of the lift.
        block: units drawn together.
        seed: of the local generator.
    """
    columns = [numerator, denominator, *([] if null is None else [null[:, None]])]
    sums = resampled_sums(torch.cat(columns, dim=1), block=block, seed=seed)
    widths = [column.shape[1] for column in columns]
    above, below, *chance = sums.split(widths, dim=1)
    value = above / below
    if chance:
        value = (value - chance[0] / below) / (1 - chance[0] / below)
    low, high = quantiles(value, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return low, high


def quantiles(
    values: Float[Tensor, "resample head"], shares: tuple[float, ...]
) -> list[Float[Tensor, " head"]]:
    """The quantiles of each column, interpolated; NaNs are left out, all of them give NaN."""
    # numpy sorts floats several times as fast as torch does.
    ordered = torch.from_numpy(np.sort(values.T.contiguous().numpy(), axis=1))
    n_valid = (~ordered.isnan()).sum(dim=1)
    found = []
    for share in shares:
        place = (n_valid - 1).clamp_min(0) * share
        below = place.floor().long()
        above = torch.minimum(below + 1, (n_valid - 1).clamp_min(0))
        start, end = (ordered.gather(1, at[:, None])[:, 0] for at in (below, above))
        found.append(torch.lerp(start, end, (place - below).to(values.dtype)))
    return found
