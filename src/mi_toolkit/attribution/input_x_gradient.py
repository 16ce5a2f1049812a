"""`input_x_gradient`: `(embedding − baseline) · ∂F/∂embedding`, summed over the width.

The first-order guess at what replacing the token by the baseline would take from F; exact, and the
same as integrated gradients, where F is linear. One backward pass.

After Shrikumar et al. 2016, "Not Just a Black Box" (arXiv:1605.01713).

It misleads where F has saturated: a prediction that is certain has little gradient left, and every
token that made it so scores near 0. Its completeness error says how far from linear F is.
"""

from __future__ import annotations

from mi_toolkit.attribution.question import Answer, Question


def input_x_gradient(question: Question) -> Answer:
    """First-order scores at the prompt itself."""
    _, (gradient,) = question.gradients(question.embeddings[None])
    way = question.embeddings - question.baseline
    return Answer(scores=(gradient.double() * way).sum(dim=-1))
