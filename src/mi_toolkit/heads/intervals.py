"""Bootstrap intervals, by a local seeded generator.

From `MIN_SEQUENCES` sequences on, whole sequences are drawn again. Under that, the eligible queries
of all sequences are pooled in order and drawn again in circular blocks, which keep neighbouring
queries (their attention is alike) together. Under `MIN_QUERIES` of them there is no interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

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
