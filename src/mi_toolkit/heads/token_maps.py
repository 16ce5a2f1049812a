"""Circuit behaviours: what a head's weights turn each token into, scored against a map of tokens.

1. A token map has a class of tokens (the days of the week) and pairs of them (Monday, Tuesday).
2. A head that attends to a pair's source writes something; its direct effect on the logits of the
   class's tokens is read off the weights. The pair is hit where its target has the highest.
3. `score` is the share of all maps' pairs that are hit. `null` is the same for the map with its
   targets permuted, the mean over all permutations: a head that always writes the same token, or
   the source itself, gets nothing above it. `lift` is `(score - null) / (1 - null)`.
4. The interval of the lift is a jackknife over pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.heads.kinds import Behaviour, Kind
from mi_toolkit.heads.scores import top_share
from mi_toolkit.stats import MIN_QUERIES, over_texts

WEIGHTS = "weights"
"""What a report calls the stimulus of circuit behaviours: no text, but the model's weights."""


@dataclass(frozen=True, kw_only=True)
class TokenMap:
    """A class of tokens, and which of them should become which."""

    name: str
    """Such as `days`."""

    candidates: tuple[int, ...]
    """The class: ids among which the target's logit has to be the highest."""

    pairs: tuple[tuple[int, int], ...]
    """Source and target ids; every target is a candidate."""


@dataclass(frozen=True, kw_only=True)
class CircuitBehaviour(Behaviour):
    """A map of tokens that a head's output-value circuit carries out; no pattern, no prompt."""

    maps: Callable[[Any], Sequence[TokenMap]]
    """From the model's tokenizer to the maps that its vocabulary allows; may be empty."""

    home: str = WEIGHTS
    min_label: float | None = None

    @property
    def kind(self) -> Kind:
        """Measured on weights."""
        return "circuit"


class PairHits(NamedTuple):
    """Which pairs of a map each head hits, and what permuted targets would."""

    hit: Float[Tensor, "head pair"]
    null: Float[Tensor, "head pair"]


class CircuitFigures(NamedTuple):
    """One layer's figures for one circuit behaviour."""

    score: Float[Tensor, "*layer head"]
    null: Float[Tensor, "*layer head"]
    lift: Float[Tensor, "*layer head"]
    ci_low: Float[Tensor, "*layer head"]
    ci_high: Float[Tensor, "*layer head"]

    p: Float[Tensor, "*layer head"]
    """One-sided, of a true lift at or under the bar."""


def pair_hits(
    logits: Float[Tensor, "head pair candidate"], target: Int[Tensor, " pair"]
) -> PairHits:
    """1 where the target's logit is the highest among the candidates; ties share it.

    `null` is the mean over all permutations of the targets among the pairs.

    >>> logits = torch.eye(3)[[1, 2, 0]][None]  # each candidate becomes the next
    >>> hits = pair_hits(logits, torch.tensor([1, 2, 0]))
    >>> hits.hit.tolist(), [round(x, 3) for x in hits.null[0].tolist()]
    ([[1.0, 1.0, 1.0]], [0.333, 0.333, 0.333])
    """
    top = top_share(logits)
    hit = top.gather(-1, target[None, :, None].expand(len(top), -1, 1))[..., 0]
    return PairHits(hit=hit, null=top[..., target].mean(dim=-1))


def circuit_figures(hits: PairHits, *, bar: float) -> CircuitFigures:
    """Score, null, lift, its interval and p of every head, over all maps' pairs together.

    The lift is a ratio of sums over pairs, `Σ(hit - null) / Σ(1 - null)`, whose jackknife leaves
    out pairs. Under 8 pairs there is no interval.
    """
    above, room = (hits.hit - hits.null).T, (1 - hits.null).T
    score, null = hits.hit.mean(dim=-1), hits.null.mean(dim=-1)
    low = high = p = torch.full_like(score, torch.nan)
    if len(above) >= MIN_QUERIES:
        # A map's pairs are all there are, not a few of many: nothing is allowed for what is unseen.
        estimate = over_texts(above, room, bounds=None)
        (low, high), p = estimate.ends(), estimate.p_at_most(bar)
        high = high.clamp_max(1)
    return CircuitFigures(score, null, above.sum(dim=0) / room.sum(dim=0), low, high, p)
