"""From unit sums to figures: score, chance, lift and interval of each head."""

from __future__ import annotations

from collections.abc import Iterator
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
    percentile_ends,
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
    """Intervals, over each head's own eligible units."""
    numerator, denominator = units.numerator.flatten(1), units.denominator.flatten(1)
    values = torch.full((numerator.shape[1], RESAMPLES), torch.nan)
    for heads, above, below, null in _alike(numerator, denominator, units.null):
        if len(above) >= (MIN_PAIRS if by_sequence else MIN_QUERIES):
            block = 1 if by_sequence else block_length(len(above))
            values[heads] = resampled_ratios(above, below, null, block=block, seed=seed).T
    low, high = percentile_ends(values.T)
    return low.view(units.numerator.shape[1:]), high.view(units.numerator.shape[1:])


def _alike(
    numerator: Float[Tensor, "unit head"],
    denominator: Float[Tensor, "unit own_head"],
    null: Float[Tensor, " unit"] | None,
) -> Iterator[tuple[slice | list[int], Tensor, Tensor, Tensor | None]]:
    """Heads with equally many eligible units, each head's own one below the other, without rest."""
    if denominator.shape[1] == 1:
        chosen = denominator[:, 0] > 0
        own_null = None if null is None else null[chosen]
        yield slice(None), numerator[chosen], denominator[chosen], own_null
        return
    eligible = denominator.T > 0
    counts = eligible.sum(dim=-1).tolist()
    above, below = (each.T[eligible].split(counts) for each in (numerator, denominator))
    for n in set(counts):
        heads = [head for head, count in enumerate(counts) if count == n]
        own_above, own_below = (
            torch.stack([own[head] for head in heads], dim=1) for own in (above, below)
        )
        yield heads, own_above, own_below, None
