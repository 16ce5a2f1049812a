"""Bootstrap intervals, by a local seeded generator.

From `MIN_SEQUENCES` sequences on, whole sequences are drawn again. Under that, the eligible queries
of all sequences are pooled in order and drawn again in circular blocks, which keep neighbouring
queries (their attention is alike) together. Under `MIN_QUERIES` of them there is no interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import embedding_bag

RESAMPLES = 1000
MIN_SEQUENCES = 8
MIN_QUERIES = 8
CONFIDENCE = 0.95

PART = 64
"""Draws of each resample that are made at a time: memory does not grow with their number."""


def block_length(n_queries: int) -> int:
    """Queries to a block: `max(1, round(n^(1/3)))`."""
    return max(1, round(math.cbrt(n_queries)))


@lru_cache(maxsize=64)
def _uniform(part: int, seed: int) -> Float[Tensor, "resample draw"]:
    generator = torch.Generator().manual_seed(seed + 7919 * part)
    return torch.rand(RESAMPLES, PART, generator=generator)


def resampled_sums(
    units: Float[Tensor, "unit column"], *, block: int, seed: int
) -> Float[Tensor, "resample column"]:
    """Sums of each column over resampled units.

    A resample has as many units as there are, in circular blocks of `block`; its last block is cut
    to fit.
    """
    n_units = len(units)
    n_drawn = math.ceil(n_units / block)
    # Sums of the blocks that begin at each unit: of all but the last of a resample, and of that.
    blocks = _block_sums(units, [block, n_units - block * (n_drawn - 1)])
    sums = torch.zeros((), dtype=units.dtype)
    for first in range(0, n_drawn, PART):
        # The product may round up to `n_units`, which is no unit.
        starts = (_uniform(first // PART, seed) * n_units).int().clamp_max_(n_units - 1)
        starts = starts[:, : n_drawn - first]
        if first + PART >= n_drawn:
            starts[:, -1] += n_units
        sums = sums + embedding_bag(starts, blocks, mode="sum")
    return sums


def _block_sums(
    units: Float[Tensor, "unit column"], sizes: Sequence[int]
) -> Float[Tensor, "unit_of_each_size column"]:
    """For each size, the sums of so many units from each one on, around the end."""
    around = torch.cat([units, units])
    running, of_size = units.clone(), {}
    for size in range(1, max(sizes) + 1):
        if size > 1:
            running += around[size - 1 : size - 1 + len(units)]
        if size in sizes:
            of_size[size] = running.clone()
    return torch.cat([of_size[size] for size in sizes])


def interval(
    numerator: Float[Tensor, "unit head"],
    denominator: Float[Tensor, "unit own_head"],
    null: Float[Tensor, " unit"] | None,
    *,
    block: int,
    seed: int,
) -> tuple[Float[Tensor, " head"], Float[Tensor, " head"]]:
    """The 2.5th and 97.5th percentile of `resampled_ratios`."""
    return percentile_ends(resampled_ratios(numerator, denominator, null, block=block, seed=seed))


def resampled_ratios(
    numerator: Float[Tensor, "unit head"],
    denominator: Float[Tensor, "unit own_head"],
    null: Float[Tensor, " unit"] | None,
    *,
    block: int,
    seed: int,
) -> Float[Tensor, "resample head"]:
    """Ratios of sums over resampled units.

    Args:
        numerator: what each unit adds to the numerator, 0 where it is not eligible.
        denominator: what each unit adds to the denominator; one column where all heads agree.
        null: what each unit adds to the numerator of chance; the ratio is then of the lift.
        block: units drawn together.
        seed: of the local generator.
    """
    columns = [numerator, denominator, *([] if null is None else [null[:, None]])]
    sums = resampled_sums(torch.cat(columns, dim=1), block=block, seed=seed)
    widths = [column.shape[1] for column in columns]
    above, below, *chance = sums.split(widths, dim=1)
    if chance:
        # The lift `(above / below - null) / (1 - null)`, of `null = chance / below`.
        above, below = above - chance[0], below - chance[0]
    ratios: Tensor = above / below
    return ratios


def percentile_ends(
    values: Float[Tensor, "resample head"],
) -> tuple[Float[Tensor, " head"], Float[Tensor, " head"]]:
    """The ends of the interval that holds 95% of each column; NaNs are left out."""
    low, high = quantiles(values, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return low, high


def quantiles(
    values: Float[Tensor, "resample head"], shares: tuple[float, ...]
) -> list[Float[Tensor, " head"]]:
    """The quantiles of each column, interpolated; NaNs are left out, all of them give NaN."""
    # numpy sorts floats several times as fast as torch does.
    ordered = torch.from_numpy(np.sort(values.T.contiguous().numpy(), axis=1))
    n_valid = torch.from_numpy(np.count_nonzero(~np.isnan(ordered.numpy()), axis=1))
    found = []
    for share in shares:
        place = (n_valid - 1).clamp_min(0) * share
        below = place.floor().long()
        above = torch.minimum(below + 1, (n_valid - 1).clamp_min(0))
        start, end = (ordered.gather(1, at[:, None])[:, 0] for at in (below, above))
        found.append(torch.lerp(start, end, (place - below).to(values.dtype)))
    return found
