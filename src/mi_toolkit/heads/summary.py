"""From unit sums to figures: score, chance, lift, interval and p of each head."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.core.stats import MIN_QUERIES, Bounds, Estimate, over_queries, over_texts
from mi_toolkit.heads.kinds import MaskBehaviour
from mi_toolkit.heads.labels import bar_of
from mi_toolkit.heads.measure import Measurement, UnitSums
from mi_toolkit.heads.scores import lift

BY_TEXTS = "jackknife over texts"
BY_QUERIES = "jackknife over queries of this prompt"
TOO_FEW = "too few"
NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadFigures:
    """Every behaviour's figures in the layers of one window; NaN where nothing is measured."""

    score: Float[Tensor, "behaviour layer head"]
    null: Float[Tensor, "behaviour layer head"]
    lift: Float[Tensor, "behaviour layer head"]
    ci_low: Float[Tensor, "behaviour layer head"]
    ci_high: Float[Tensor, "behaviour layer head"]

    p: Float[Tensor, "behaviour layer head"]
    """One-sided, of a true figure at or under the bar of the behaviour's label."""

    n_queries: Int[Tensor, "behaviour layer head"]
    """Queries that each head was measured on."""

    interval: tuple[str, ...]
    """Per behaviour: how the interval was made, or why there is none."""


def summarise(measurement: Measurement, *, min_lift: float) -> HeadFigures:
    """Figures of the layers of one window from their sums."""
    rows, kinds = [], []
    for index, behaviour in enumerate(measurement.plan.behaviours):
        units = measurement.unit_sums(index)
        is_mask = isinstance(behaviour, MaskBehaviour)
        below = units.denominator.sum(dim=0)
        score = units.numerator.sum(dim=0) / below
        null = torch.full_like(score, torch.nan)
        if units.null is not None:
            null = (units.null.sum() / below).expand_as(score)
        value_range = None if isinstance(behaviour, MaskBehaviour) else behaviour.value_range
        estimate = _estimate(units, value_range)
        low, high = (end.view_as(score) for end in estimate.ends())
        bar = bar_of(behaviour.facts, min_lift)
        rows.append(
            (
                score,
                null,
                lift(score, null) if is_mask else torch.full_like(score, torch.nan),
                low,
                high,
                estimate.p_at_most(bar).view_as(score),
                units.n_queries,
            )
        )
        kinds.append(_kind(measurement.plan.eligibility[index].n_queries, units))
    columns = (torch.stack(column) for column in zip(*rows, strict=True))
    score, null, lifts, low, high, p, n_queries = columns
    return HeadFigures(
        score=score,
        null=null,
        lift=lifts,
        ci_low=low,
        ci_high=high,
        p=p,
        n_queries=n_queries,
        interval=tuple(kinds),
    )


def _kind(n_queries: int, units: UnitSums) -> str:
    if n_queries == 0:
        return NOT_APPLICABLE
    if units.lengths is None:
        return BY_TEXTS
    return BY_QUERIES if int(units.n_queries.max()) >= MIN_QUERIES else TOO_FEW


def _estimate(units: UnitSums, value_range: tuple[float, float] | None) -> Estimate:
    """The lift, or a distribution behaviour's value, with its uncertainty."""
    above, below = units.numerator.flatten(1), units.denominator.flatten(1)
    bounds: Bounds | None = value_range
    if units.null is not None:
        # The lift `(above / below - null) / (1 - null)`, of `null = chance / below`.
        chance = units.null[:, None]
        above, below = above - chance, below - chance
        bounds = (-float(units.null.sum() / below.sum()), 1.0)
    if units.lengths is None:
        return over_texts(above, below, bounds=bounds, units_to_term=units.units_to_term)
    return over_queries(above, below, lengths=units.lengths, bounds=bounds)
