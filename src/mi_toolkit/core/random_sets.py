"""Random sets to set next to a chosen one: with as many members in each group, drawn otherwise.

| of | a group is | the draw |
|---|---|---|
| heads, neurons (`random_sets`) | a layer | distinct sets other than the chosen one |
| weights (`random_control`) | a matrix | one set; of millions, two hardly meet |
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from types import MappingProxyType

import torch
from jaxtyping import Bool
from torch import Tensor

from mi_toolkit.core.head import Head

Triple = tuple[str, int, int]
"""A weight: its parameter, row and column."""


@dataclass(frozen=True, kw_only=True)
class RandomSets:
    """Distinct sets with the same number of heads in each layer as a set, that one left out."""

    sets: tuple[tuple[Head, ...], ...]
    """The sets; empty where there is none but the set itself."""

    n_distinct: int
    """How many such sets there are, the set itself included."""

    @property
    def are_all(self) -> bool:
        """Whether these are all that there are, not a sample."""
        return len(self.sets) == self.n_distinct - 1


def n_sets_like(heads: Sequence[Head], *, n_heads: int) -> int:
    """How many sets have as many heads in each layer, the set itself included."""
    return math.prod(math.comb(n_heads, size) for size in _sizes(heads).values())


def random_sets(
    heads: Sequence[Head], *, n_heads: int, n_sets: int, generator: torch.Generator
) -> RandomSets:
    """Up to `n_sets` distinct sets other than `heads`; all there are, where there are no more.

    The set and those drawn are together a draw without replacement from all sets of the kind, so
    that under the null each rank of the set among them has the same probability.

    Args:
        heads: the set to find others like.
        n_heads: heads of a layer.
        n_sets: how many to draw.
        generator: of the draw.
    """
    own, n_distinct = tuple(sorted(heads)), n_sets_like(heads, n_heads=n_heads)
    if n_distinct - 1 <= 4 * n_sets:
        every = [drawn for drawn in _every_set(heads, n_heads) if drawn != own]
        sets = every
        if len(every) > n_sets:
            order = torch.randperm(len(every), generator=generator)[:n_sets].tolist()
            sets = [every[index] for index in order]
    else:
        found: dict[tuple[Head, ...], None] = {}
        while len(found) < n_sets:
            found |= dict.fromkeys(_drawn(heads, n_heads, n_sets, generator))
            found.pop(own, None)
        sets = list(found)[:n_sets]
    return RandomSets(sets=tuple(sets), n_distinct=n_distinct)


def _sizes(heads: Sequence[Head]) -> dict[int, int]:
    return dict(sorted(Counter(head.layer for head in heads).items()))


def _every_set(heads: Sequence[Head], n_heads: int) -> Iterator[tuple[Head, ...]]:
    parts = [
        combinations([Head(layer, index) for index in range(n_heads)], size)
        for layer, size in _sizes(heads).items()
    ]
    for chosen in product(*parts):
        yield tuple(head for part in chosen for head in part)


def _drawn(
    heads: Sequence[Head], n_heads: int, n_sets: int, generator: torch.Generator
) -> list[tuple[Head, ...]]:
    parts = []
    for layer, size in _sizes(heads).items():
        order = torch.rand(n_sets, n_heads, generator=generator).argsort(dim=1)
        chosen = order[:, :size].sort(dim=1).values.tolist()
        parts.append([tuple(Head(layer, index) for index in row) for row in chosen])
    return [tuple(head for part in row for head in part) for row in zip(*parts, strict=True)]


def random_control(
    top: Sequence[Triple],
    shapes: Mapping[str, tuple[int, int]],
    generator: torch.Generator,
    within: Mapping[str, Bool[Tensor, "_ _"]] = MappingProxyType({}),
) -> list[Triple]:
    """As many weights of each matrix, drawn from it without replacement.

    From the whole matrix, or, where it is in `within`, from the weights marked there.
    """
    drawn: list[Triple] = []
    for name, count in Counter(name for name, _, _ in top).items():
        n_rows, n_columns = shapes[name]
        if name in within:
            marked = within[name].flatten().nonzero().flatten()
            flat = marked[_distinct(len(marked), count, generator)].tolist()
        else:
            flat = _distinct(n_rows * n_columns, count, generator)
        drawn += [(name, int(place) // n_columns, int(place) % n_columns) for place in flat]
    return drawn


def _distinct(n: int, count: int, generator: torch.Generator) -> list[int]:
    """`count` different numbers below `n`; a permutation of millions for a few would be a waste."""
    if count > n // 2:
        return torch.randperm(n, generator=generator)[:count].tolist()
    found: dict[int, None] = {}
    while len(found) < count:
        for number in torch.randint(n, (count,), generator=generator).tolist():
            found.setdefault(number)
            if len(found) == count:
                break
    return list(found)
