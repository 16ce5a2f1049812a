"""The methods of attribution: one signature, a table, and what their scores mean.

`attention_rollout`: attention multiplied through the layers, from the last position down.

1. In each layer the pattern is averaged over heads, and mixed half and half with the identity, for
   the residual stream.
2. These matrices are multiplied, the first layer's rightmost: row q, column k is then the share of
   position q's last state that rolls back to token k.
3. The row of the last position is the score. It is at least 0 and adds up to 1.

After Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers" (arXiv:2005.00928).

It misleads more than the others. It knows neither the target nor what heads write: every target
gets the same scores, and a head that rests on the first token with nothing to say gives that token
its attention all the same, layer after layer, so the first token tends to win. Half for the
residual stream is an assumption; MLPs and the sizes of values have no part. A picture of where
information could have come from, not of what the prediction rests on.

`gradient_norm`: the Euclidean length of ∂F/∂embedding.

How sharply F answers to a small change of a token's embedding, in whatever direction. At least 0,
without a sign, without a baseline, and not adding up to anything.

After Simonyan et al. 2013, "Deep Inside Convolutional Networks" (arXiv:1312.6034), with the length
in place of the largest entry.

It misleads as sensitivity is no contribution: a token that F rests on but is no longer sensitive to
scores low, and a rare token with a short embedding scores high as its embedding is easily moved.

`input_x_gradient`: `(embedding − baseline) · ∂F/∂embedding`, summed over the width.

The first-order guess at what replacing the token by the baseline would take from F; exact, and the
same as integrated gradients, where F is linear. One backward pass.

After Shrikumar et al. 2016, "Not Just a Black Box" (arXiv:1605.01713).

It misleads where F has saturated: a prediction that is certain has little gradient left, and every
token that made it so scores near 0. Its completeness error says how far from linear F is.

`occlusion`: F less F with the token's embedding replaced by the baseline, one token at a time.

No gradient and no approximation: each score is the effect of one real change. As many forward
passes as the prompt has tokens, batched.

After Zeiler and Fergus 2013, "Visualizing and Understanding Convolutional Networks"
(arXiv:1311.2901); Li et al. 2016, "Understanding Neural Networks through Representation Erasure"
(arXiv:1612.08220).

It misleads where tokens stand in for one another: of two mentions of a name either can go without
effect, and both score near 0. A prompt with a hole in it is also no prompt that the model knows.

`integrated_gradients`: the gradient along the straight line from a baseline to the prompt.

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

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mi_toolkit.attribution.question import Answer, Question, baseline_embedding
from mi_toolkit.core.errors import PromptError
from mi_toolkit.core.model import attention_layers
from mi_toolkit.core.passes import visit_patterns


def attention_rollout(question: Question) -> Answer:
    """Rolled-out attention of the last position; the same for every target."""
    identity = torch.eye(len(question.ids), dtype=torch.float64)
    rolled = identity

    def roll(layer: int, patterns: torch.Tensor) -> None:
        nonlocal rolled
        mean = patterns[0].double().mean(dim=0).cpu()
        mixed = (mean + identity) / 2
        rolled = mixed / mixed.sum(dim=-1, keepdim=True) @ rolled

    layers = attention_layers(question.model)
    visit_patterns(question.model, question.ids[None], layers, roll)
    return Answer(scores=rolled[-1])


def gradient_norm(question: Question) -> Answer:
    """Sensitivity of F to each token's embedding."""
    _, (gradient,) = question.gradients(question.embeddings[None])
    return Answer(scores=gradient.double().norm(dim=-1))


def input_x_gradient(question: Question) -> Answer:
    """First-order scores at the prompt itself."""
    _, (gradient,) = question.gradients(question.embeddings[None])
    way = question.embeddings - question.baseline
    return Answer(scores=(gradient.double() * way).sum(dim=-1))


def occlusion(question: Question) -> Answer:
    """What each token's removal takes from F."""
    length, (_, whole) = len(question.ids), question.ends
    found = []
    with torch.no_grad():
        for part in question.in_batches(length, "occluding tokens"):
            places = torch.arange(length, device=question.embeddings.device)[part]
            rows = question.embeddings.repeat(len(places), 1, 1)
            rows[torch.arange(len(places)), places] = question.baseline[places]
            found.append(whole - question.values(rows).double())
    return Answer(scores=torch.cat(found))


JUMP_WITHIN = 2.0**-14
"""Of the line from the baseline to the prompt: what F does within that, points do not resolve."""

_CANDIDATES = ("mean", "eos")


def completeness_error(scores: Float[Tensor, " position"], value: float, without: float) -> float:
    """`|Σ scores − (value − without)| / |value − without|`.

    0 where the scores add up to the difference; infinite where they do not and there is none.
    """
    difference = value - without
    missing = abs(float(scores.double().sum()) - difference)
    if difference == 0.0:
        return 0.0 if missing == 0.0 else math.inf
    return missing / abs(difference)


def jump_at_baseline(question: Question) -> float | None:
    """How far F moves right after the baseline; None if by less than the tolerance lets be missed.

    A norm divides by the length of what it is given. Where the baseline's is next to nothing, and
    norm follows norm, F leaps as soon as the baseline is left, and no number of points on the line
    adds up. One forward pass.
    """
    without, value = question.ends
    with torch.no_grad():
        just_after = question.on_the_line(torch.tensor([JUMP_WITHIN], dtype=torch.float64))
        moved = float(question.values(just_after).double()) - without
    return None if abs(moved) <= question.tolerance * abs(value - without) else moved


def better_baseline(question: Question, given: int | str) -> str | None:
    """The name of a baseline from which F does not jump; None where no such is known."""
    for name in _CANDIDATES:
        if name == given:
            continue
        try:
            embedding = baseline_embedding(question.model, name, question.embeddings)
        except PromptError:  # the tokenizer has no such token
            continue
        if jump_at_baseline(replace(question, baseline=embedding)) is None:
            return name
    return None


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


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to give tokens scores."""

    run: Callable[[Question], Answer]
    """The function: takes a question, gives a score for each token."""

    measures: str
    """What a score is, in a few words."""

    has_baseline: bool
    """Whether scores are relative to a baseline: they then have a sign, and can be held against
    F(prompt) − F(baseline)."""


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "integrated_gradients": Method(
            run=integrated_gradients,
            measures="share of the difference to the baseline, by the gradient on the way there",
            has_baseline=True,
        ),
        "input_x_gradient": Method(
            run=input_x_gradient,
            measures="share of the difference to the baseline, by the gradient at the prompt",
            has_baseline=True,
        ),
        "gradient_norm": Method(
            run=gradient_norm,
            measures="length of the gradient at the token's embedding: sensitivity, without a sign",
            has_baseline=False,
        ),
        "occlusion": Method(
            run=occlusion,
            measures="what replacing this token alone by the baseline takes away",
            has_baseline=True,
        ),
        "attention_rollout": Method(
            run=attention_rollout,
            measures="attention multiplied through the layers, whatever the target; sums to 1",
            has_baseline=False,
        ),
    }
)
"""The methods by name."""
