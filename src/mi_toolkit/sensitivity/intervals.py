"""Intervals of a mean over pairs, and of a figure that was resampled. Pure."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mi_toolkit.stats import students_t

Estimate = tuple[float, float, float]
"""A value and the ends of its 95% interval, NaN where there is none."""


def mean_over_pairs(table: Float[Tensor, "set set"]) -> Estimate:
    """The mean of a symmetric table off its diagonal, with a 95% interval over the sets.

    Pairs that share a set are not independent. The standard error is the larger of the jackknife's
    (sets are left out, one at a time) and of Hoeffding's bound, the pairs' standard deviation over
    the root of half the number of sets: with few sets the jackknife alone can be 0 by accident. So
    it is wide rather than narrow. Under three sets there is none; where all pairs are equal it has
    no width, which a few sets cannot vouch for.
    """
    n = len(table)
    rows, columns = torch.triu_indices(n, n, offset=1)
    pairs = table[rows, columns]
    mean = float(pairs.mean())
    if n < 3:
        return around(mean, float("nan"), 0)
    of_set = table.masked_fill(torch.eye(n, dtype=torch.bool), 0.0).sum(dim=1)
    without = (pairs.sum() - of_set) / ((n - 1) * (n - 2) / 2)
    jackknife = float(((n - 1) / n * (without - without.mean()).square().sum()).sqrt())
    bound = float(pairs.std()) / (n // 2) ** 0.5
    return around(mean, max(jackknife, bound), n - 1)


def around(value: float, standard_error: float, freedom: int) -> Estimate:
    """A value with its 95% interval by Student's t; none without degrees of freedom."""
    if freedom < 1:
        return value, float("nan"), float("nan")
    half = float(students_t(torch.tensor(float(freedom)))) * standard_error
    return value, value - half, value + half


def within(estimate: Estimate, low: float, high: float) -> Estimate:
    """The interval cut to what the value can be."""
    value, *ends = estimate
    first, last = (min(max(end, low), high) if end == end else end for end in ends)
    return value, first, last


def told(estimate: Estimate) -> str:
    """A value and its interval in words.

    >>> told((0.5, 0.4, 0.6))
    '0.50 [0.40, 0.60]'
    """
    value, low, high = estimate
    return f"{value:.2f} [{low:.2f}, {high:.2f}]" if low == low else f"{value:.2f}"
