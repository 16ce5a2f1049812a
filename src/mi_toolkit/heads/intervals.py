"""Bootstrap intervals, by a local seeded generator.

From `MIN_SEQUENCES` sequences on, whole sequences are drawn again. Under that, the eligible queries
of all sequences are pooled in order and drawn again in circular blocks, which keep neighbouring
queries (their attention is alike) together. Under `MIN_QUERIES` of them there is no interval.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

RESAMPLES = 1000
MIN_SEQUENCES = 8
MIN_QUERIES = 8
CONFIDENCE = 0.95


def block_length(n_queries: int) -> int:
    """Queries to a block: `max(1, round(n^(1/3)))`."""
    return max(1, round(math.cbrt(n_queries)))


@lru_cache(maxsize=8)
def resample_counts(n_units: int, block: int, seed: int) -> Float[Tensor, "resample unit"]:
    """How often each unit is drawn in each resample of `n_units`, in circular blocks of `block`.

    Rows sum to `n_units`; the last block of a resample is cut to fit.
    """
    generator = torch.Generator().manual_seed(seed)
    n_blocks = math.ceil(n_units / block)
    start = torch.randint(n_units, (RESAMPLES, n_blocks), generator=generator)
    length = torch.full((n_blocks,), block)
    length[-1] = n_units - block * (n_blocks - 1)
    edges = torch.zeros(RESAMPLES, 2 * n_units + 1)
    one = torch.ones(start.shape)
    edges.scatter_add_(1, start, one)
    edges.scatter_add_(1, start + length, -one)
    drawn = edges.cumsum_(dim=1)
    return drawn[:, :n_units] + drawn[:, n_units : 2 * n_units]


def interval(
    numerator: Float[Tensor, "unit head"],
    denominator: Float[Tensor, "unit head"],
    null: Float[Tensor, " unit"] | None,
    *,
    block: int,
    seed: int,
) -> tuple[Float[Tensor, " head"], Float[Tensor, " head"]]:
    """The 2.5th and 97.5th percentile of a ratio of sums over resampled units.

    Args:
        numerator: what each unit adds to the numerator, 0 where it is not eligible.
        denominator: what each unit adds to the denominator, for every head alike where every head
            is eligible.
        null: what each unit adds to the numerator of chance; the interval is then of the lift.
        block: units drawn together.
        seed: of the local generator.
    """
    counts = resample_counts(len(numerator), block, seed)
    below = counts @ denominator
    value = counts @ numerator / below
    if null is not None:
        chance = (counts @ null)[:, None] / below
        value = (value - chance) / (1 - chance)
    tail = (1 - CONFIDENCE) / 2
    low, high = value.nanquantile(torch.tensor([tail, 1 - tail], dtype=value.dtype), dim=0)
    return low, high
