"""From unit sums to figures: score, chance, lift and interval of each head in one layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.heads.behaviours import MaskBehaviour
from mi_toolkit.heads.intervals import MIN_QUERIES, MIN_SEQUENCES, block_length, interval
from mi_toolkit.heads.measure import Measurement, UnitSums
from mi_toolkit.heads.scores import lift

BY_SEQUENCE = "bootstrap over sequences"
BY_QUERY_BLOCKS = "bootstrap over blocks of pooled queries"
TOO_FEW = "too few"
NOT_APPLICABLE = "not applicable"

MIN_PAIRS = MIN_SEQUENCES - 1
"""Units of a bootstrap over sequences: eight sequences, or the seven pairs that they make."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerFigures:
    """Every behaviour's figures in one layer; NaN where there is nothing to measure."""

    score: Float[Tensor, "behaviour head"]
    null: Float[Tensor, "behaviour head"]
    lift: Float[Tensor, "behaviour head"]
    ci_low: Float[Tensor, "behaviour head"]
    ci_high: Float[Tensor, "behaviour head"]

    n_queries: Int[Tensor, "behaviour head"]
    """Queries that each head was measured on."""

    interval: tuple[str, ...]
    """Per behaviour: how the interval was made, or why there is none."""


def summarise(measurement: Measurement, *, seed: int) -> LayerFigures:
    """Figures of one layer from its sums."""
    behaviours = measurement.plan.behaviours
    rows, kinds = [], []
    for index, behaviour in enumerate(behaviours):
        units = measurement.unit_sums(index)
        eligibility = measurement.plan.eligibility[index]
        is_mask = isinstance(behaviour, MaskBehaviour)
        below = units.denominator.sum(dim=0)
        score = units.numerator.sum(dim=0) / below
        null = (
            units.null.sum() / below
            if units.null is not None
            else torch.full_like(score, torch.nan)
        )
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
    return LayerFigures(
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
    """Intervals, over each head's own eligible units; heads that share these go together."""
    eligible = units.denominator > 0
    low = torch.full(eligible.shape[1:], torch.nan)
    high = low.clone()
    if len(eligible) == 0:
        return low, high
    patterns, group = torch.unique(eligible.T, dim=0, return_inverse=True)
    for index, chosen in enumerate(patterns):
        n, heads = int(chosen.sum()), group == index
        if n < (MIN_PAIRS if by_sequence else MIN_QUERIES):
            continue
        low[heads], high[heads] = interval(
            units.numerator[chosen][:, heads],
            units.denominator[chosen][:, heads],
            None if units.null is None else units.null[chosen],
            block=1 if by_sequence else block_length(n),
            seed=seed,
        )
    return low, high
