"""Weights to compare the top ones with: as many in every matrix, chosen otherwise. Pure.

A top that hurts more than random weights may hurt because of where its weights are, or how large
they are. So each control has the same count per matrix.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mi_toolkit.errors import WeightError

CONTROLS = ("random", "magnitude_matched", "bottom")
"""The names of the functions below, as a perturbation test asks for them."""

Triple = tuple[str, int, int]
Matrices = Mapping[str, Float[Tensor, "_ _"]]


def random_control(
    top: Sequence[Triple], shapes: Mapping[str, tuple[int, int]], generator: torch.Generator
) -> list[Triple]:
    """As many weights of each matrix, drawn from the whole matrix without replacement."""
    drawn: list[Triple] = []
    for name, count in _counts(top).items():
        n_rows, n_columns = shapes[name]
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


def magnitude_matched(top: Sequence[Triple], weights: Matrices) -> list[Triple]:
    """For each weight the nearest in size of its matrix, outside the top, and each only once.

    Raises:
        WeightError: a matrix has too few others.
    """
    matched: list[Triple] = []
    for name, places in _by_matrix(top).items():
        sizes = weights[name].abs().float()
        free = torch.ones(sizes.shape, dtype=torch.bool)
        rows, columns = torch.tensor(places).T
        free[rows, columns] = False
        if int(free.sum()) < len(places):
            raise WeightError(f"{name} has no {len(places)} weights beside the top to match them.")
        values, order = sizes[free].sort()
        where = free.nonzero()[order]
        taken = torch.zeros(len(values), dtype=torch.bool)
        for size in sizes[rows, columns].tolist():
            at = _nearest_free(values, taken, size)
            taken[at] = True
            matched.append((name, int(where[at, 0]), int(where[at, 1])))
    return matched


def _nearest_free(values: Tensor, taken: Tensor, size: float) -> int:
    above = int(torch.searchsorted(values, size))
    below = above - 1
    while above < len(values) and taken[above]:
        above += 1
    while below >= 0 and taken[below]:
        below -= 1
    if above >= len(values):
        return below
    if below < 0:
        return above
    return above if float(values[above]) - size < size - float(values[below]) else below


def bottom(top: Sequence[Triple], scores: Matrices) -> list[Triple]:
    """As many of each matrix with the lowest scores that are not exactly 0.

    A weight whose score is exactly 0 was not reached at all (an unused neuron, a padding row).

    Raises:
        WeightError: a matrix has too few such weights.
    """
    lowest: list[Triple] = []
    for name, count in _counts(top).items():
        score = scores[name].abs()
        reached = score.masked_fill(score == 0, torch.inf).flatten()
        values, flat = reached.topk(count, largest=False)
        if torch.isinf(values).any():
            raise WeightError(f"{name} has no {count} weights with a score other than 0.")
        width = scores[name].shape[1]
        lowest += [(name, int(place) // width, int(place) % width) for place in flat.tolist()]
    return lowest


def _counts(top: Sequence[Triple]) -> Counter[str]:
    return Counter(name for name, _, _ in top)


def _by_matrix(top: Sequence[Triple]) -> dict[str, list[tuple[int, int]]]:
    places: dict[str, list[tuple[int, int]]] = {}
    for name, row, column in top:
        places.setdefault(name, []).append((row, column))
    return places
