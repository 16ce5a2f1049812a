"""How far one set's loss change stands out among those of other sets: pure figures.

1. A set's change is the mean over sequences of the mean over counted queries of the loss with the
   set ablated minus the loss without: paired, query by query.
2. `effect = (change - mean of the other sets' changes) / their standard deviation`.
3. Standard errors are those of the delete-one jackknife: over sequences from 3 on, below that over
   8 runs of neighbouring queries, which says nothing of other texts. Intervals are Student's t with
   one degree of freedom less than there are units. The other sets are the null: they stay the same
   ones, and their standard deviation is only the unit in which the effect's interval is given.
4. `p = (1 + other sets that reach the change) / (1 + other sets)`: the set itself counts as one of
   its kind, so no draw gives 0. The percentile is its complement.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.stats import MIN_TEXTS, students_t

N_RUNS = 8
"""Runs of neighbouring queries where there are too few sequences, and so the fewest queries."""

BY_SEQUENCE = "jackknife over sequences"
BY_QUERIES = "jackknife over the queries of this text"
TOO_FEW = "too few"


@dataclass(frozen=True, kw_only=True, eq=False)
class Effect:
    """One set's loss change beside those of other sets."""

    change: float
    """Mean loss with the set ablated minus mean loss without, in nats."""

    change_low: float
    """Lower end of the change's 95% interval; NaN where there are too few queries for one."""

    change_high: float
    """Upper end of the same."""

    effect: float
    """The change in standard deviations of the other sets' changes from their mean; NaN for fewer
    than two other sets."""

    effect_low: float
    """Lower end of the effect's 95% interval, over the stimulus."""

    effect_high: float
    """Upper end of the same."""

    random: Float[Tensor, " set"]
    """The other sets' changes."""

    percentile: float
    """`100 (1 - p)` with p for a rise of the loss: at most `100 n / (n + 1)` with n other sets."""

    p: float
    """Probability that a set of the kind, drawn at random, ranks as high; for a label that says
    that the heads hold a prediction back, as low."""

    interval: str
    """How the intervals were made, or why there are none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PairedChanges:
    """Changes of loss of several sets, summed over the units that are left out in turn."""

    numerator: Float[Tensor, "set unit"]
    """Summed changes of a unit's queries, each of which weighs as its sequence's mean says."""

    denominator: Float[Tensor, " unit"]
    """The weights."""

    interval: str
    """What the units are; `TOO_FEW` where no interval can be made of them."""

    @staticmethod
    def of(changes: Float[Tensor, "set query"], sequence: Int[Tensor, " query"]) -> PairedChanges:
        """Changes at each counted query, and which sequence each is of."""
        _, place, n_queries = sequence.unique(return_inverse=True, return_counts=True)
        weight = (1 / n_queries[place]).double()
        interval = BY_SEQUENCE
        if len(n_queries) < MIN_TEXTS:
            interval = BY_QUERIES if len(sequence) >= N_RUNS else TOO_FEW
            n_units = min(N_RUNS, len(sequence))
            place = torch.arange(len(sequence)) * n_units // len(sequence)
        n_units = int(place.max()) + 1
        numerator = torch.zeros(len(changes), n_units, dtype=torch.double)
        numerator.index_add_(1, place, changes.double() * weight)
        denominator = torch.zeros(n_units, dtype=torch.double).index_add_(0, place, weight)
        return PairedChanges(numerator=numerator, denominator=denominator, interval=interval)

    @property
    def mean(self) -> Float[Tensor, " set"]:
        """Each set's change."""
        return self.numerator.sum(dim=1) / self.denominator.sum()

    def estimate(
        self, figure: Callable[[Tensor], Tensor]
    ) -> tuple[Float[Tensor, " figure"], Float[Tensor, " figure"]]:
        """Figures of the sets' changes and their standard errors; NaN where there are too few.

        Args:
            figure: from changes, `["draw set"]`, to figures, `["draw figure"]`.
        """
        value = figure(self.mean[None])[0]
        if self.interval == TOO_FEW:
            return value, torch.full_like(value, math.nan)
        rest = self.numerator.sum(dim=1, keepdim=True) - self.numerator
        without = figure((rest / (self.denominator.sum() - self.denominator)).T)
        n_units = len(without)
        spread = (without - without.mean(dim=0)).square().sum(dim=0)
        return value, ((n_units - 1) / n_units * spread).sqrt()

    @property
    def t(self) -> float:
        """Standard errors to either end of a 95% interval."""
        return float(students_t(torch.tensor(len(self.denominator) - 1.0)))


def effect_of(
    changes: Float[Tensor, "set query"],
    sequence: Int[Tensor, " query"],
    *,
    direction: int = 1,
) -> Effect:
    """The first set's change among those of the others.

    Args:
        changes: each set's paired change of loss at each counted query; the first set is the one
            in question.
        sequence: which sequence each query is of.
        direction: 1 where ablation is expected to raise the loss, -1 where to lower it.
    """
    paired = PairedChanges.of(changes, sequence)
    value, error = paired.estimate(
        lambda change: torch.stack([change[:, 0], change[:, 0] - change[:, 1:].mean(dim=1)], dim=1)
    )
    half = paired.t * error
    # In float32, so that equal changes are equal whatever was summed first.
    observed, others = paired.mean[0].float(), paired.mean[1:].float()
    unit = others.std() if len(others) > 1 else torch.tensor(math.nan)
    effect, effect_half = value[1] / unit, half[1] / unit
    return Effect(
        change=float(observed),
        change_low=float(value[0] - half[0]),
        change_high=float(value[0] + half[0]),
        effect=float(effect),
        effect_low=float(effect - effect_half),
        effect_high=float(effect + effect_half),
        random=others,
        percentile=100 * (1 - _share_reaching(others, observed)),
        p=_share_reaching(direction * others, direction * observed),
        interval=paired.interval,
    )


def _share_reaching(random: Tensor, observed: Tensor) -> float:
    return (1 + int((random >= observed).sum())) / (1 + len(random))
