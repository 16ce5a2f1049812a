"""Next-token agreement of every pair of models, against chance, with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.comparison.alignment import agrees, chance_agreement, continues, shared_positions
from mi_toolkit.comparison.continuations import Continuations
from mi_toolkit.heads.intervals import MIN_QUERIES, MIN_SEQUENCES, block_length, interval

PairFigures = tuple[float, float, float, float, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Agreement:
    """How far the predictions of each pair of models agree; symmetric, in the models' order."""

    share: Float[Tensor, "model model"]
    """Of the shared positions, in [0, 1]; NaN where two models share none. See `compare_models`."""

    chance: Float[Tensor, "model model"]
    """What the same continuations would agree by if they were paired at random."""

    ci_low: Float[Tensor, "model model"]
    """Lower end of the 95% interval of the share: bootstrap over texts, or, under eight of them,
    over blocks of positions; NaN under eight positions."""

    ci_high: Float[Tensor, "model model"]
    """Upper end of the same."""

    positions: Int[Tensor, "model model"]
    """Character positions at which both models have just finished a token."""

    @property
    def lift(self) -> Float[Tensor, "model model"]:
        """`(share - chance) / (1 - chance)`: 0 chance, 1 always the same."""
        return (self.share - self.chance) / (1 - self.chance)


def agreement_of(said: Sequence[Sequence[Continuations]], *, seed: int) -> Agreement:
    """The agreement of every pair, from the continuations of each model on each text."""
    n = len(said)
    figures = {
        (one, other): _pair(said[one], said[other], seed)
        for one in range(n)
        for other in range(one, n)
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


def _pair(ones: Sequence[Continuations], others: Sequence[Continuations], seed: int) -> PairFigures:
    by_text = [shared_positions(one, other) for one, other in zip(ones, others, strict=True)]
    pairs = [pair for found in by_text for pair in found]
    if not pairs:
        return (float("nan"),) * 4 + (0,)
    low, high = _interval(by_text, seed)
    share = sum(agrees(*pair) for pair in pairs) / len(pairs)
    return share, chance_agreement(pairs), low, high, len(pairs)


def _interval(by_text: Sequence[Sequence[tuple[str, str]]], seed: int) -> tuple[float, float]:
    hits = [torch.tensor([float(agrees(*pair)) for pair in found]) for found in by_text if found]
    if sum(map(len, hits)) < MIN_QUERIES:
        return float("nan"), float("nan")
    if len(hits) >= MIN_SEQUENCES:
        numerator = torch.stack([found.sum() for found in hits])[:, None]
        denominator = torch.tensor([float(len(found)) for found in hits])[:, None]
        block = 1
    else:
        numerator = torch.cat(hits)[:, None]
        denominator = torch.ones_like(numerator)
        block = block_length(len(numerator))
    low, high = interval(numerator, denominator, None, block=block, seed=seed)
    return float(low), float(high)
