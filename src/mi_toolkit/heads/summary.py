"""From unit sums to figures: score, chance, lift and interval of each head."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.heads.behaviours import MaskBehaviour
from mi_toolkit.heads.intervals import (
    MIN_QUERIES,
    MIN_SEQUENCES,
    RESAMPLES,
    block_length,
    middle,
    resampled_ratios,
)
from mi_toolkit.heads.measure import Measurement, UnitSums
from mi_toolkit.heads.scores import lift

BY_SEQUENCE = "bootstrap over sequences"
BY_QUERY_BLOCKS = "bootstrap over blocks of pooled queries"
TOO_FEW = "too few"
NOT_APPLICABLE = "not applicable"

MIN_PAIRS = MIN_SEQUENCES - 1
"""Units of a bootstrap over sequences: eight sequences, or the seven pairs that they make."""


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadFigures:
    """Every behaviour's figures in the layers of one window; NaN where nothing is measured."""

    score: Float[Tensor, "behaviour layer head"]
    null: Float[Tensor, "behaviour layer head"]
    lift: Float[Tensor, "behaviour layer head"]
    ci_low: Float[Tensor, "behaviour layer head"]
    ci_high: Float[Tensor, "behaviour layer head"]

    n_queries: Int[Tensor, "behaviour layer head"]
    """Queries that each head was measured on."""

    interval: tuple[str, ...]
    """Per behaviour: how the interval was made, or why there is none."""


def summarise(measurement: Measurement, *, seed: int) -> HeadFigures:
    """Figures of the layers of one window from their sums."""
    behaviours = measurement.plan.behaviours
    rows, kinds = [], []
    for index, behaviour in enumerate(behaviours):
        units = measurement.unit_sums(index)
        eligibility = measurement.plan.eligibility[index]
        is_mask = isinstance(behaviour, MaskBehaviour)
        below = units.denominator.sum(dim=0)
        score = units.numerator.sum(dim=0) / below
        null = torch.full_like(score, torch.nan)
        if units.null is not None:
            null = (units.null.sum() / below).expand_as(score)
        low, high = _interval(units, eligibility.by_sequence, seed)
        rows.append(
            (
                score,
                null,
                lift(score, null) if is_mask else torch.full_like(score, torch.nan),
                low,
                high,
                units.n_queries,
            )
        )
        kinds.append(_kind(eligibility.n_queries, eligibility.by_sequence, units.n_queries))
    columns = (torch.stack(column) for column in zip(*rows, strict=True))
    score, null, lifts, low, high, n_queries = columns
    return HeadFigures(
        score=score,
        null=null,
        lift=lifts,
        ci_low=low,
        ci_high=high,
        n_queries=n_queries,
        interval=tuple(kinds),
    )


def _kind(n_queries: int, by_sequence: bool, measured: Tensor) -> str:
    if n_queries == 0:
        return NOT_APPLICABLE
    if by_sequence:
        return BY_SEQUENCE
    return BY_QUERY_BLOCKS if int(measured.max()) >= MIN_QUERIES else TOO_FEW


def _interval(units: UnitSums, by_sequence: bool, seed: int) -> tuple[Tensor, Tensor]:
    """Intervals, over each head's own eligible units; heads that have equally many go together."""
    numerator, denominator = units.numerator.flatten(1).T, units.denominator.flatten(1).T
    eligible = denominator > 0
    n_units = eligible.sum(dim=-1)
    values = torch.full((len(numerator), RESAMPLES), torch.nan)
    for n in n_units.unique().tolist():
        if n < (MIN_PAIRS if by_sequence else MIN_QUERIES):
            continue
        own = n_units == n
        heads = own.expand(len(numerator))
        values[heads] = resampled_ratios(
            numerator[heads][eligible[own].expand(int(heads.sum()), -1)].view(-1, n).T,
            denominator[own][eligible[own]].view(-1, n).T,
            None if units.null is None else units.null[eligible[0]],
            block=1 if by_sequence else block_length(n),
            seed=seed,
        ).T
    low, high = middle(values.T)
    return low.view(units.numerator.shape[1:]), high.view(units.numerator.shape[1:])
