"""Whether scores add up to what they explain, and what can be done where they do not."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from mi_toolkit.attribution.baselines import baseline_embedding
from mi_toolkit.attribution.question import Question
from mi_toolkit.errors import PromptError

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
    """How far F moves right behind the baseline; None if by less than the tolerance lets be missed.

    A norm divides by the length of what it is given. Where the baseline's is next to nothing, and
    norm follows norm, F leaps as soon as the baseline is left, and no number of points on the line
    adds up. One forward pass.
    """
    without, value = question.ends
    with torch.no_grad():
        behind = question.on_the_line(torch.tensor([JUMP_WITHIN], dtype=torch.float64))
        moved = float(question.values(behind).double()) - without
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
