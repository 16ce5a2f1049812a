"""Next-token agreement of every pair of models, against chance, with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.comparison.alignment import agrees, chance_agreement, continues, shared_positions
from mi_toolkit.comparison.continuations import Continuations
from mi_toolkit.stats import MIN_TEXTS, over_queries, over_texts

PairFigures = tuple[float, float, float, float, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Agreement:
    """How far the predictions of each pair of models agree; symmetric, in the models' order."""

    share: Float[Tensor, "model model"]
    """Of the shared positions, in [0, 1]; NaN where two models share none. See `compare_models`."""

    chance: Float[Tensor, "model model"]
    """What the same continuations would agree by if they were paired at random."""

    ci_low: Float[Tensor, "model model"]
    """Lower end of the 95% interval of the share: over texts, or, under three of them, over
    their positions; NaN under eight positions there."""

    ci_high: Float[Tensor, "model model"]
    """Upper end of the same."""

    positions: Int[Tensor, "model model"]
    """Character positions at which both models have just finished a token."""

    @property
    def lift(self) -> Float[Tensor, "model model"]:
        """`(share - chance) / (1 - chance)`: 0 chance, 1 always the same."""
        return (self.share - self.chance) / (1 - self.chance)


def agreement_of(said: Sequence[Sequence[Continuations]]) -> Agreement:
    """The agreement of every pair, from the continuations of each model on each text."""
    n = len(said)
    figures = {
        (one, other): _pair(said[one], said[other]) for one in range(n) for other in range(one, n)
    }
    table = torch.tensor(
        [[figures[min(i, j), max(i, j)] for j in range(n)] for i in range(n)], dtype=torch.float64
    )
    share, chance, low, high, positions = table.unbind(dim=-1)
    return Agreement(
        share=share.float(),
        chance=chance.float(),
        ci_low=low.float(),
        ci_high=high.float(),
        positions=positions.long(),
    )


def own_accuracy(texts: Sequence[str], said: Sequence[Continuations]) -> float:
    """The share of a model's boundaries where its continuation is what the text goes on with.

    The end of a text, behind which nothing is known, is left out. NaN without a boundary.
    """
    hits = [
        continues(text, position, continuation)
        for text, found in zip(texts, said, strict=True)
        for position, continuation in found.items()
        if position < len(text)
    ]
    return sum(hits) / len(hits) if hits else float("nan")


def _pair(ones: Sequence[Continuations], others: Sequence[Continuations]) -> PairFigures:
    by_text = [shared_positions(one, other) for one, other in zip(ones, others, strict=True)]
    pairs = [pair for found in by_text for pair in found]
    if not pairs:
        return (float("nan"),) * 4 + (0,)
    low, high = _interval(by_text)
    share = sum(agrees(*pair) for pair in pairs) / len(pairs)
    return share, chance_agreement(pairs), low, high, len(pairs)


def _interval(by_text: Sequence[Sequence[tuple[str, str]]]) -> tuple[float, float]:
    hits = [torch.tensor([float(agrees(*pair)) for pair in found]) for found in by_text if found]
    lengths = [len(found) for found in hits]
    if len(hits) >= MIN_TEXTS:
        numerator = torch.stack([found.sum() for found in hits])[:, None]
        denominator = torch.tensor(lengths, dtype=numerator.dtype)[:, None]
        estimate = over_texts(numerator, denominator, bounds=(0.0, 1.0))
    else:
        numerator = torch.cat(hits)[:, None]
        ones = torch.ones_like(numerator)
        estimate = over_queries(numerator, ones, lengths=lengths, bounds=(0.0, 1.0))
    low, high = estimate.ends()
    return float(low), float(high)
