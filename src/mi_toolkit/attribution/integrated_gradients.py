"""`integrated_gradients`: the gradient along the straight line from a baseline to the prompt.

1. At points a of [0, 1], the gradient of F at `baseline + a · (embedding − baseline)`, all tokens
   moved at once. The points are Gauss-Legendre's, which are dense at the ends: a norm lets F jump
   as soon as an embedding leaves zero.
2. The weighted mean of the gradients, times `embedding − baseline`, summed over the width.
3. The scores of exact integrals add up to F(prompt) − F(baseline). The number of points is doubled
   from 32 until what is missing is within the tolerance, or the bound is reached.

After Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks" (arXiv:1703.01365).

It misleads where the baseline does: what a token shares with it counts as nothing. And embeddings
between are no tokens: the gradients are taken where the model never was in training. Adding up is
necessary, not sufficient: it says that the integral was taken, not that the line says something.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mi_toolkit.attribution.completeness import completeness_error
from mi_toolkit.attribution.question import Answer, Question

FIRST_STEPS = 32


def integrated_gradients(question: Question) -> Answer:
    """Scores that add up to F(prompt) − F(baseline), up to the completeness error."""
    if question.steps is not None:
        return Answer(scores=_integrated(question, question.steps), steps=question.steps)
    with torch.no_grad():
        ends = torch.stack([question.embeddings, question.baseline])
        value, without = question.values(ends).double().tolist()
    steps = min(FIRST_STEPS, question.max_steps)
    while True:
        scores = _integrated(question, steps)
        error = completeness_error(scores, value, without)
        if error <= question.tolerance or steps >= question.max_steps:
            return Answer(scores=scores, steps=steps)
        steps = min(2 * steps, question.max_steps)


def _integrated(question: Question, steps: int) -> Float[Tensor, " position"]:
    # Not captum's: the integral is these lines, while captum imports pyplot into the process and
    # adds up in float32. The tests hold the two equal.
    nodes, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(steps))
    points = (1 + nodes) / 2
    way = question.embeddings - question.baseline
    total = torch.zeros_like(way, dtype=torch.float64)
    for part in question.in_batches(steps, f"integrating over {steps:,} steps"):
        along = points[part, None, None].to(way)
        gradients = question.gradients(question.baseline + along * way)
        share = weights[part, None, None].to(gradients.device) / 2
        total += (gradients.double() * share).sum(dim=0)
    return (total * way).sum(dim=-1)
