"""When something began: change points with intervals, and what took the place of what.

1. A figure by checkpoint is taken for one level before a checkpoint and another from it on. Of each
   such `k`, `RSS(k)` is the sum of squares that the two means leave.
2. The profile log-likelihood is `-n/2 · log(max(RSS(k)/n, v))`, with `v` the mean square of the
   figures' own standard errors: a step that is exact to the eye is not more exact than they are.
3. The best `k` is the change point. Its interval holds every `k` whose log-likelihood is at most
   1.92 lower (half of chi-square's 95% at one degree of freedom): what rises slowly has a wide one.

The interval says where among these checkpoints: between two of them nothing was seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray as Array

LOG_LIKELIHOOD = 1.92
"""How much lower a change point's may be within the 95% interval."""

IN_A_ROW = 2
"""Checkpoints in a row that carry a label before it counts as one that was there and went."""

State = Literal["formed", "no longer", "not yet"]


@dataclass(frozen=True, kw_only=True)
class ChangePoint:
    """Between which checkpoints a level changed."""

    at: int
    """The first checkpoint of the new level."""

    low: int
    """The last checkpoint that is of the old level for sure."""

    high: int
    """The first that is of the new one for sure."""


def change_point(
    values: Float[Array, " checkpoint"], errors: Float[Array, " checkpoint"], *, rises: bool = True
) -> ChangePoint | None:
    """Where a figure rises (or falls) from one level to another; None where it does not.

    >>> change_point(np.array([0.0, 0.1, 0.0, 0.8, 0.9, 0.9]), np.full(6, 0.02))
    ChangePoint(at=3, low=2, high=3)
    """
    n = len(values)
    left = np.full(n, np.inf)
    for k in range(1, n):
        before, after = values[:k], values[k:]
        if (after.mean() > before.mean()) == rises and after.mean() != before.mean():
            squares = ((before - before.mean()) ** 2).sum() + ((after - after.mean()) ** 2).sum()
            left[k] = n / 2 * np.log(max(squares / n, (errors**2).mean(), 1e-12))
    if not np.isfinite(left).any():
        return None
    kept = (left <= left.min() + LOG_LIKELIHOOD).nonzero()[0]
    return ChangePoint(at=int(left.argmin()), low=int(kept[0]) - 1, high=int(kept[-1]))


@dataclass(frozen=True, kw_only=True)
class Course:
    """What became of a label that a head may carry."""

    state: State
    """`formed`: it is there at the end. `no longer`: it was there, two checkpoints in a row at
    least. `not yet`: neither."""

    onset: ChangePoint | None
    """Where it came; None where it did not, or was there from the first checkpoint on."""

    end: ChangePoint | None
    """Where it went; None where it did not."""


def course(
    values: Float[Array, " checkpoint"],
    errors: Float[Array, " checkpoint"],
    labelled: Bool[Array, " checkpoint"],
) -> Course:
    """What became of a label, from its figure and its presence at each checkpoint.

    Checkpoints whose figure is no number count for what carries the label, not for when it came.

    >>> values = np.array([0.0, 0.0, 0.7, 0.8, 0.1, 0.0])
    >>> found = course(values, np.full(6, 0.02), values > 0.3)
    >>> found.state, found.onset.at, found.end.at
    ('no longer', 2, 4)
    """
    where = labelled.nonzero()[0]
    in_a_row = any(labelled[k : k + IN_A_ROW].all() for k in range(len(labelled) - IN_A_ROW + 1))
    if not len(where) or not (labelled[-1] or in_a_row):
        return Course(state="not yet", onset=None, end=None)
    if labelled[-1]:
        onset = None if labelled.all() else _within(values, errors, 0, len(values))
        return Course(state="formed", onset=onset, end=None)
    first, last = int(where[0]), int(where[-1])
    onset = _within(values, errors, 0, last + 1) if first else None
    end = _within(values, errors, first, len(values), rises=False)
    return Course(state="no longer", onset=onset, end=end)


def _within(
    values: Float[Array, " checkpoint"],
    errors: Float[Array, " checkpoint"],
    start: int,
    stop: int,
    *,
    rises: bool = True,
) -> ChangePoint | None:
    """The change point among some of the checkpoints, of those with a figure."""
    places = [k for k in range(start, stop) if np.isfinite(values[k])]
    found = change_point(values[places], errors[places], rises=rises)
    if found is None:
        return None
    return ChangePoint(at=places[found.at], low=places[found.low], high=places[found.high])
