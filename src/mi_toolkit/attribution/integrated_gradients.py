"""`integrated_gradients`: the gradient along the straight line from a baseline to the prompt.

1. At points a of [0, 1], the gradient of F at `baseline + a · (embedding − baseline)`, all tokens
   moved at once. The weighted mean of the gradients, times `embedding − baseline`, summed over the
   width, is each token's score.
2. The scores of exact integrals add up to F(prompt) − F(baseline), and those of any piece of the
   line to the difference of F at its ends. So the line starts as 8 pieces of 4 Gauss-Legendre
   points each, and pieces that do not add up are halved: where a norm lets F leap as soon as an
   embedding leaves zero, points gather; where F is smooth, few are spent.
3. It ends where the gaps are within the tolerance, both their sum, which is what the result misses,
   and the root of their summed squares, lest two large ones cancel by luck; or at the bound on
   points.

After Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks" (arXiv:1703.01365).

It misleads where the baseline does: what a token shares with it counts as nothing. And embeddings
between are no tokens: the gradients are taken where the model never was in training. Adding up is
necessary, not sufficient: it says that the integral was taken, not that the line says something.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mi_toolkit.attribution.question import Answer, Question

FIRST_PIECES = 8
POINTS = 4

Span = tuple[float, float]
"""Where a piece of the line begins and ends: 0 is the baseline, 1 the prompt."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Piece:
    """The integral over one piece of the line."""

    span: Span
    scores: Float[Tensor, " position"]
    gap: float
    """By how much the scores miss the difference of F at the ends."""


def integrated_gradients(question: Question) -> Answer:
    """Scores that add up to F(prompt) − F(baseline), up to the completeness error."""
    fixed = question.steps
    if fixed is None and question.max_steps < FIRST_PIECES * POINTS:
        fixed = question.max_steps
    if fixed is not None:
        (scores,) = _integrals(question, [(0.0, 1.0)], fixed)
        return Answer(scores=scores, steps=fixed)
    ends = [piece / FIRST_PIECES for piece in range(FIRST_PIECES + 1)]
    known: dict[float, float] = {}
    pieces = _pieces(question, list(pairwise(ends)), known)
    whole = abs(known[1.0] - known[0.0])
    while True:
        room = question.max_steps // POINTS - len(pieces)
        worst = _worst(pieces, question.tolerance * whole)[:room]
        if not worst:
            scores = torch.stack([piece.scores for piece in pieces]).sum(dim=0)
            return Answer(scores=scores, steps=POINTS * len(pieces))
        halves = [half for piece in worst for half in _halved(piece.span)]
        pieces = [piece for piece in pieces if piece not in worst]
        pieces += _pieces(question, halves, known)


def _worst(pieces: Sequence[_Piece], allowed: float) -> list[_Piece]:
    """The pieces to halve, the worst first: all but as many as miss half of what is allowed."""
    by_gap = sorted(pieces, key=lambda piece: (abs(piece.gap), piece.span))
    missed = np.sqrt(np.cumsum([piece.gap**2 for piece in by_gap]))
    if missed[-1] <= allowed and abs(sum(piece.gap for piece in pieces)) <= allowed:
        return []
    good = int((missed <= allowed / 2).sum())
    return by_gap[min(good, len(by_gap) - 1) :][::-1]


def _halved(span: Span) -> list[Span]:
    middle = (span[0] + span[1]) / 2
    return [(span[0], middle), (middle, span[1])]


def _pieces(question: Question, spans: Sequence[Span], at: dict[float, float]) -> list[_Piece]:
    """The integrals over these pieces; F at ends that were not known joins `at`."""
    ends = sorted({end for span in spans for end in span} - at.keys())
    at.update(zip(ends, _values(question, ends), strict=True))
    integrals = _integrals(question, spans, POINTS)
    return [
        _Piece(
            span=span,
            scores=scores,
            gap=float(scores.sum()) - (at[span[1]] - at[span[0]]),
        )
        for span, scores in zip(spans, integrals, strict=True)
    ]


def _values(question: Question, points: Sequence[float]) -> list[float]:
    """F at points of the line."""
    found: list[float] = []
    along = torch.tensor(points, dtype=torch.float64)
    with torch.no_grad():
        for part in question.in_batches(len(points), f"looking at {len(points):,} points"):
            found += question.values(_on_the_line(question, along[part])).double().tolist()
    return found


def _integrals(
    question: Question, spans: Sequence[Span], n_points: int
) -> list[Float[Tensor, " position"]]:
    """Each position's integral over each piece, by so many points in each."""
    # Not captum's: the integral is these lines, while captum imports pyplot into the process and
    # adds up in float32. The tests hold the two equal.
    nodes, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(n_points))
    starts, stops = torch.tensor(spans, dtype=torch.float64).unbind(dim=1)
    widths = (stops - starts)[:, None] / 2
    points = (starts[:, None] + widths * (1 + nodes)).flatten()
    shares = (widths * weights).flatten()
    way = question.embeddings - question.baseline
    scores = torch.zeros(len(points), len(way), dtype=torch.float64)
    for part in question.in_batches(len(points), f"integrating over {len(points):,} steps"):
        gradients = question.gradients(_on_the_line(question, points[part]))
        scores[part] = (gradients.double() * way).sum(dim=-1).cpu() * shares[part, None]
    return list(scores.view(len(spans), n_points, -1).sum(dim=1))


def _on_the_line(
    question: Question, points: Float[Tensor, " row"]
) -> Float[Tensor, "row position d_embed"]:
    way = question.embeddings - question.baseline
    return question.baseline + points[:, None, None].to(way) * way
