"""When something began: change points with intervals, and what took the place of what.

1. A figure by checkpoint is taken for one level before a checkpoint and another from it on. Of each
   such `k`, `RSS(k)` is the sum of squares that the two means leave.
2. The profile log-likelihood is `-n/2 · log(max(RSS(k)/n, v))`, with `v` the mean square of the
   figures' own standard errors: a step that is exact to the eye is not more exact than they are.
3. The best `k` is the change point. Its interval holds every `k` whose log-likelihood is at most
   1.92 lower (half of chi-square's 95% at one degree of freedom): what rises slowly has a wide one.
4. What came and went is taken for three levels, the one between higher than both others. The best
   pair of change points is sought, so that an end is never before its onset; the interval of each
   holds what some place of the other leaves within 1.92.

The interval says where among these checkpoints: between two of them nothing was seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
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


def rise_and_fall(
    values: Float[Array, " checkpoint"], errors: Float[Array, " checkpoint"]
) -> tuple[ChangePoint, ChangePoint] | None:
    """Where a figure rises and where it falls again after that; None where it does not.

    >>> came, went = rise_and_fall(np.array([0.0, 0.8, 0.8, 0.0, 0.1, 0.0]), np.full(6, 0.02))
    >>> came.at, went.at
    (1, 3)
    """
    n = len(values)
    start, stop = (index + 1 for index in np.triu_indices(n - 1, k=1))
    if not len(start):
        return None
    sums, squares = (np.concatenate([[0.0], each.cumsum()]) for each in (values, values**2))
    means, left_over = [], np.zeros(len(start))
    for begin, end in ((0, start), (start, stop), (stop, n)):
        total = sums[end] - sums[begin]
        means.append(total / (end - begin))
        left_over += squares[end] - squares[begin] - total * means[-1]
    stands_out = (means[1] > means[0]) & (means[1] > means[2])
    if not stands_out.any():
        return None
    least = max((errors**2).mean(), 1e-12)
    left = np.where(stands_out, n / 2 * np.log(np.maximum(left_over / n, least)), np.inf)
    kept = left <= left.min() + LOG_LIKELIHOOD
    came, went = (
        ChangePoint(
            at=int(at[left.argmin()]), low=int(at[kept].min()) - 1, high=int(at[kept].max())
        )
        for at in (start, stop)
    )
    return came, went


@dataclass(frozen=True, kw_only=True)
class Course:
    """What became of a label that a head may carry."""

    state: State
    """`formed`: it is there at the end. `no longer`: it was there, two checkpoints in a row at
    least. `not yet`: neither."""

    onset: ChangePoint | None
    """Where it came; None where it did not, was there from the first checkpoint on, or came without
    a rise of its figure that stands out. Of a label that is there at the end and came more than
    once, the rise that stands out most."""

    end: ChangePoint | None
    """Where it went, after its onset; None where it did not, or without a fall that stands out."""

    from_the_first: bool = False
    """Whether it was there from the first checkpoint on."""


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
    in_a_row = any(labelled[k : k + IN_A_ROW].all() for k in range(len(labelled) - IN_A_ROW + 1))
    if not (labelled[-1] or in_a_row):
        return Course(state="not yet", onset=None, end=None)
    known = np.isfinite(values).nonzero()[0]
    values, errors = values[known], errors[known]
    from_the_first = bool(labelled[:IN_A_ROW].all())
    if labelled[-1]:
        rise = None if from_the_first else change_point(values, errors)
        onset = _among(rise, known)
        return Course(state="formed", onset=onset, end=None, from_the_first=from_the_first)
    if from_the_first:
        fall = change_point(values, errors, rises=False)
        end = _among(fall, known)
        return Course(state="no longer", onset=None, end=end, from_the_first=True)
    came, went = rise_and_fall(values, errors) or (None, None)
    return Course(state="no longer", onset=_among(came, known), end=_among(went, known))


def _among(found: ChangePoint | None, places: Int[Array, " known"]) -> ChangePoint | None:
    """A change point of some of the checkpoints, by its place among all."""
    if found is None:
        return None
    at, low, high = (int(places[k]) for k in (found.at, found.low, found.high))
    return ChangePoint(at=at, low=low, high=high)
