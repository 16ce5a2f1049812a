"""`gradient_norm`: the Euclidean length of ∂F/∂embedding.

How sharply F answers to a small change of a token's embedding, in whatever direction. At least 0,
without a sign, without a baseline, and not adding up to anything.

After Simonyan et al. 2013, "Deep Inside Convolutional Networks" (arXiv:1312.6034), with the length
in place of the largest entry.

It misleads as sensitivity is no contribution: a token that F rests on but is no longer sensitive to
scores low, and a rare token with a short embedding scores high as its embedding is easily moved.
"""

from __future__ import annotations

from mi_toolkit.attribution.question import Answer, Question


def gradient_norm(question: Question) -> Answer:
    """Sensitivity of F to each token's embedding."""
    _, (gradient,) = question.gradients(question.embeddings[None])
    return Answer(scores=gradient.double().norm(dim=-1))
