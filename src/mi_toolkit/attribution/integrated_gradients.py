"""`integrated_gradients`: the gradient along the straight line from a baseline to the prompt.

1. At points a of [0, 1], the gradient of F at `baseline + a · (embedding − baseline)`, all tokens
   moved at once. The weighted mean of the gradients, times `embedding − baseline`, summed over the
   width, is each token's score.
2. The scores of exact integrals add up to F(prompt) − F(baseline), and those of any piece of the
   line to the difference of F at its ends. So the line starts as 8 pieces of 3 points (Simpson's
   rule: both ends and the middle), and pieces that do not add up are halved, the worst first: all
   points of a piece are points of its halves, so that a halving takes 2 more and none is lost.
   Where F bends, points gather; where it is smooth, few are spent.
3. It ends where the sum of the gaps, which is what the result misses, is within the tolerance, and
   the root of their summed squares within 8 times that, lest large ones cancel by luck; or at the
   bound on points; or at once where F jumps at the baseline, which no number of points resolves.

After Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks" (arXiv:1703.01365).

It misleads where the baseline does: what a token shares with it counts as nothing. And embeddings
between are no tokens: the gradients are taken where the model never was in training. Adding up is
necessary, not sufficient: it says that the integral was taken, not that the line says something.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mi_toolkit.attribution.completeness import jump_at_baseline
from mi_toolkit.attribution.question import Answer, Question

FIRST_PIECES = 8
SIMPSON = torch.tensor([1, 4, 1], dtype=torch.float64) / 6
FIRST_POINTS = FIRST_PIECES * 2 + 1
CANCELLING = 8.0
"""How much gaps of either sign may cancel: their root of summed squares over what is allowed."""

Span = tuple[float, float]
"""Where a piece of the line begins and ends: 0 is the baseline, 1 the prompt."""


def integrated_gradients(question: Question) -> Answer:
    """Scores that add up to F(prompt) − F(baseline), up to the completeness error."""
    fixed = question.steps
    if fixed is None and question.max_steps < FIRST_POINTS:
        fixed = question.max_steps
    if fixed is not None:
        return Answer(scores=_gauss_legendre(question, fixed), steps=fixed)
    without, value = question.ends
    allowed = question.tolerance * abs(value - without)
    line = _Line(question)
    pieces = line.pieces(pairwise(piece / FIRST_PIECES for piece in range(FIRST_PIECES + 1)))
    asked, jump = False, None
    while True:
        room = (question.max_steps - len(line.values)) // 2
        worst = _worst(pieces, allowed)[:room]
        if not asked and any(piece.span[0] == 0.0 for piece in worst):
            asked, jump = True, jump_at_baseline(question)
        scores = torch.stack([piece.scores for piece in pieces]).sum(dim=0)
        if not worst or jump is not None or not bool(torch.isfinite(scores).all()):
            return Answer(scores=scores, steps=len(line.values), jump=jump)
        halves = [half for piece in worst for half in _halved(piece.span)]
        pieces = [piece for piece in pieces if piece not in worst] + line.pieces(halves)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Piece:
    """The integral over one piece of the line."""

    span: Span
    scores: Float[Tensor, " position"]
    gap: float
    """By how much the scores miss the difference of F at the ends."""


class _Line:
    """F and the tokens' rates of change along the line, at every point that was looked at."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.values: dict[float, float] = {}
        self._rates: dict[float, Float[Tensor, " position"]] = {}

    def pieces(self, spans: Iterable[Span]) -> list[_Piece]:
        """The integrals over these pieces; only points that are new run."""
        spans = list(spans)
        points = [_points(span) for span in spans]
        self._look({point for each in points for point in each} - self.values.keys())
        return [self._piece(span, at) for span, at in zip(spans, points, strict=True)]

    def _piece(self, span: Span, points: Sequence[float]) -> _Piece:
        width = span[1] - span[0]
        scores = width * (SIMPSON @ torch.stack([self._rates[point] for point in points]))
        gap = float(scores.sum()) - (self.values[span[1]] - self.values[span[0]])
        return _Piece(span=span, scores=scores, gap=gap)

    def _look(self, new: Iterable[float]) -> None:
        points = torch.tensor(sorted(new), dtype=torch.float64)
        for part in self.question.in_batches(
            len(points), f"integrating over {len(points):,} steps"
        ):
            values, rates = _rates(self.question, points[part])
            self.values |= zip(points[part].tolist(), values.tolist(), strict=True)
            self._rates |= zip(points[part].tolist(), rates, strict=True)


def _points(span: Span) -> list[float]:
    """Halving keeps them apart exactly: all are multiples of a power of two."""
    return [span[0], (span[0] + span[1]) / 2, span[1]]


def _worst(pieces: Sequence[_Piece], allowed: float) -> list[_Piece]:
    """The pieces to halve: the worst, and those that miss nearly as much."""
    gaps = np.array([piece.gap for piece in pieces])
    if np.linalg.norm(gaps) <= CANCELLING * allowed and abs(gaps.sum()) <= allowed:
        return []
    by_gap = sorted(pieces, key=lambda piece: (-abs(piece.gap), piece.span))
    return [piece for piece in by_gap if not abs(piece.gap) < 0.7 * abs(by_gap[0].gap)]


def _halved(span: Span) -> list[Span]:
    middle = (span[0] + span[1]) / 2
    return [(span[0], middle), (middle, span[1])]


def _gauss_legendre(question: Question, n_points: int) -> Float[Tensor, " position"]:
    """Each position's integral over the whole line, by so many points."""
    # Not captum's: the integral is these lines, while captum imports pyplot into the process and
    # adds up in float32. The tests hold the two equal.
    nodes, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(n_points))
    scores = torch.zeros(len(question.ids), dtype=torch.float64)
    for part in question.in_batches(n_points, f"integrating over {n_points:,} steps"):
        _, rates = _rates(question, (1 + nodes[part]) / 2)
        scores += weights[part] / 2 @ rates
    return scores


def _rates(
    question: Question, points: Float[Tensor, " row"]
) -> tuple[Float[Tensor, " row"], Float[Tensor, "row position"]]:
    """F at points of the line, and how fast each position changes it there."""
    values, gradients = question.gradients(question.on_the_line(points))
    way = question.embeddings - question.baseline
    return values.double().cpu(), (gradients.double() * way).sum(dim=-1).cpu()
