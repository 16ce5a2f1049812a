"""How far one set's loss change stands out among those of random sets: pure figures.

1. A set's change is the mean over sequences of the mean over counted queries of the loss with the
   set ablated minus the loss without: paired, query by query.
2. `effect = (change - mean of the random sets' changes) / their standard deviation`.
3. Its interval draws the sequences again (under 8 sequences: circular blocks of pooled queries), in
   all sets alike, so it covers the stimulus. The random sets stay the same ones: they are the null,
   and are not drawn again.
4. `p = (1 + number of random sets that reach the change) / (1 + number of random sets)`: the set
   itself counts as one of its kind, so no draw gives 0. The percentile is its complement.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.heads.intervals import (
    CONFIDENCE,
    MIN_QUERIES,
    MIN_SEQUENCES,
    block_length,
    resampled_sums,
)
from mi_toolkit.heads.summary import BY_QUERY_BLOCKS, BY_SEQUENCE, TOO_FEW

_TAILS = torch.tensor([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])


@dataclass(frozen=True, kw_only=True, eq=False)
class Effect:
    """One set's loss change beside those of random sets."""

    change: float
    """Mean loss with the set ablated minus mean loss without, in nats."""

    change_low: float
    """Lower end of the change's 95% interval; NaN where there are too few queries for one."""

    change_high: float
    """Upper end of the same."""

    effect: float
    """The change in standard deviations of the random sets' changes from their mean; NaN for fewer
    than two random sets."""

    effect_low: float
    """Lower end of the effect's 95% interval, over the stimulus."""

    effect_high: float
    """Upper end of the same."""

    random: Float[Tensor, " set"]
    """The random sets' changes."""

    percentile: float
    """`100 (1 - p)` with p for a rise of the loss: at most `100 n / (n + 1)` with n random sets."""

    p: float
    """Chance that a set of the kind, drawn at random, ranks as high; for a label that says that the
    heads hold a prediction back, as low."""

    interval: str
    """How the intervals were made, or why there are none."""


def effect_of(
    changes: Float[Tensor, "set query"],
    sequence: Int[Tensor, " query"],
    *,
    direction: int = 1,
    seed: int,
) -> Effect:
    """The first set's change among those of the others.

    Args:
        changes: each set's paired change of loss at each counted query; the first set is the one
            in question.
        sequence: which sequence each query is of.
        direction: 1 where ablation is expected to raise the loss, -1 where to lower it.
        seed: of the bootstrap.
    """
    numerator, denominator, interval = _units(changes, sequence)
    change = numerator.sum(dim=1) / denominator.sum()
    bounds = torch.full((2, 2), math.nan)
    if interval != TOO_FEW:
        block = 1 if interval == BY_SEQUENCE else block_length(len(denominator))
        units = torch.cat([numerator.T, denominator[:, None]], dim=1)
        sums = resampled_sums(units, block=block, seed=seed)
        drawn = sums[:, :-1] / sums[:, -1:]
        both = torch.stack([drawn[:, 0], _standing_out(drawn)], dim=1)
        bounds = both.quantile(_TAILS, dim=0)
    observed, random = change[0], change[1:]
    return Effect(
        change=float(observed),
        change_low=float(bounds[0, 0]),
        change_high=float(bounds[1, 0]),
        effect=float(_standing_out(change[None])),
        effect_low=float(bounds[0, 1]),
        effect_high=float(bounds[1, 1]),
        random=random,
        percentile=100 * (1 - _share_reaching(random, observed)),
        p=_share_reaching(direction * random, direction * observed),
        interval=interval,
    )


def _units(
    changes: Float[Tensor, "set query"], sequence: Int[Tensor, " query"]
) -> tuple[Tensor, Tensor, str]:
    """What the bootstrap draws: sequences, or queries that weigh as their sequence's mean does."""
    _, place, n_queries = sequence.unique(return_inverse=True, return_counts=True)
    weight = 1 / n_queries[place]
    if len(n_queries) < MIN_SEQUENCES:
        interval = BY_QUERY_BLOCKS if len(sequence) >= MIN_QUERIES else TOO_FEW
        return changes * weight, weight, interval
    by_sequence = changes.new_zeros(len(changes), len(n_queries))
    by_sequence.index_add_(1, place, changes * weight)
    return by_sequence, torch.ones(len(n_queries)), BY_SEQUENCE


def _standing_out(change: Float[Tensor, "draw set"]) -> Float[Tensor, " draw"]:
    random = change[:, 1:]
    if random.shape[1] < 2:
        return torch.full((len(change),), math.nan)
    return (change[:, 0] - random.mean(dim=1)) / random.std(dim=1)


def _share_reaching(random: Tensor, observed: Tensor) -> float:
    return (1 + int((random >= observed).sum())) / (1 + len(random))


def false_discovery_rates(p: Sequence[float]) -> list[float]:
    """Benjamini and Hochberg's adjusted p-values, in the order given.

    Calling a discovery where the rate is at most `alpha` keeps the expected share of false ones
    among them at `alpha`.

    >>> false_discovery_rates([0.01, 0.5, 0.02])
    [0.03, 0.5, 0.03]
    """
    rates, least = [0.0] * len(p), 1.0
    ascending = sorted(range(len(p)), key=lambda index: p[index])
    for rank, index in reversed(list(enumerate(ascending, start=1))):
        least = min(least, p[index] * len(p) / rank)
        rates[index] = least
    return rates
