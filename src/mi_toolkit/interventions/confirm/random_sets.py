"""Random sets of heads to compare a set with: as many of each layer, its own heads left out.

A layer with fewer other heads than the set has there gives all of them, and is filled up with heads
of the set, drawn at random: the random sets then hold part of what they are compared with, which
makes the comparison harder to pass, never easier.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import torch

from mi_toolkit.heads.head import Head

ENUMERABLE = 10_000
"""Distinct sets up to which all are listed before some are drawn."""


@dataclass(frozen=True, kw_only=True)
class RandomSets:
    """Distinct sets of heads, with the same number in each layer as the set they stand beside."""

    sets: tuple[tuple[Head, ...], ...]
    """The sets; empty where there is none but the set itself."""

    n_distinct: int
    """How many such sets there are at all."""

    crowded: tuple[int, ...]
    """Layers with too few other heads, filled up with heads of the set itself."""

    @property
    def are_all(self) -> bool:
        """Whether these are all that there are, not a draw."""
        return len(self.sets) == self.n_distinct


def random_sets(
    heads: Sequence[Head], *, n_heads: int, n_sets: int, generator: torch.Generator
) -> RandomSets:
    """Up to `n_sets` distinct random sets; all there are, where there are no more.

    Args:
        heads: the set to find the like of.
        n_heads: heads of a layer.
        n_sets: how many to draw.
        generator: of the draw.
    """
    pools = [
        _Pool.of(layer, [head for head in heads if head.layer == layer], n_heads)
        for layer in sorted({head.layer for head in heads})
    ]
    # Without another head anywhere, the one set of the kind is the set itself.
    n_distinct = math.prod(pool.n_draws for pool in pools) if any(p.others for p in pools) else 0
    if n_distinct <= n_sets:
        sets = list(_every_set(pools)) if n_distinct else []
    elif n_distinct <= ENUMERABLE:
        listed = list(_every_set(pools))
        order = torch.randperm(n_distinct, generator=generator)[:n_sets]
        sets = [listed[index] for index in order.tolist()]
    else:
        drawn: dict[tuple[Head, ...], None] = {}
        while len(drawn) < n_sets:
            drawn[tuple(head for pool in pools for head in pool.draw(generator))] = None
        sets = list(drawn)
    return RandomSets(
        sets=tuple(sets),
        n_distinct=n_distinct,
        crowded=tuple(pool.layer for pool in pools if pool.n_filled),
    )


@dataclass(frozen=True, kw_only=True)
class _Pool:
    """What one layer's part of a random set is drawn from."""

    layer: int
    own: tuple[Head, ...]
    others: tuple[Head, ...]

    @staticmethod
    def of(layer: int, own: Sequence[Head], n_heads: int) -> _Pool:
        every = [Head(layer, index) for index in range(n_heads)]
        others = tuple(head for head in every if head not in own)
        return _Pool(layer=layer, own=tuple(own), others=others)

    @property
    def n_filled(self) -> int:
        return max(0, len(self.own) - len(self.others))

    @property
    def n_draws(self) -> int:
        if self.n_filled:
            return math.comb(len(self.own), self.n_filled)
        return math.comb(len(self.others), len(self.own))

    def every_draw(self) -> Iterator[tuple[Head, ...]]:
        if not self.n_filled:
            yield from combinations(self.others, len(self.own))
            return
        for filling in combinations(self.own, self.n_filled):
            yield tuple(sorted((*self.others, *filling)))

    def draw(self, generator: torch.Generator) -> tuple[Head, ...]:
        source = self.own if self.n_filled else self.others
        size = self.n_filled or len(self.own)
        picked = [source[i] for i in torch.randperm(len(source), generator=generator)[:size]]
        return tuple(sorted((*self.others, *picked) if self.n_filled else picked))


def _every_set(pools: Sequence[_Pool]) -> Iterator[tuple[Head, ...]]:
    for parts in product(*(pool.every_draw() for pool in pools)):
        yield tuple(head for part in parts for head in part)
