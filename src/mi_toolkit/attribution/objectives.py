"""What is explained: one number F from the logits at the prompt's last position."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from mi_toolkit.errors import PromptError, unknown_name
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.predictions import Token, token_id

TokenTarget = Token | Sequence[Token]
"""A token, or two: F is then the first one's less the second one's."""

Objective = Callable[[Tensor], Tensor]
"""`logits ["row vocabulary"] -> F ["row"]`."""


def _logit(logits: Float[Tensor, "row vocabulary"]) -> Float[Tensor, "row vocabulary"]:
    return logits


def _log_prob(logits: Float[Tensor, "row vocabulary"]) -> Float[Tensor, "row vocabulary"]:
    return logits.log_softmax(dim=-1)


OBJECTIVES: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"logit": _logit, "log_prob": _log_prob}
)
"""What a token's figure is. A logit answers for this token alone, and moves too when all tokens'
logits do; a log-probability (in nats) answers for it against all others. Of a contrast both give
the same."""


def target_ids(
    model: HookedModel, target: Any, logits: Float[Tensor, " vocabulary"]
) -> tuple[int, ...]:
    """The id of the target, or both of a contrast; None is the most probable next token.

    Raises:
        PromptError: a text that is not one token, an id outside the vocabulary, or a token against
            itself.
    """
    if target is None:
        return (int(logits.argmax()),)
    several = isinstance(target, Sequence | Tensor | np.ndarray) and not isinstance(target, str)
    if not several or getattr(target, "ndim", 1) == 0:
        return (token_id(model, target),)
    tokens: list[Token] = list(target)
    if len(tokens) != 2:
        raise PromptError(
            f"A contrast is of two tokens, (this, not that); the one given has {len(tokens)}."
        )
    ids = tuple(token_id(model, token) for token in tokens)
    if ids[0] == ids[1]:
        raise PromptError(f"A contrast of {tokens[0]!r} with itself is 0 on every prompt.")
    return ids


def objective_of(name: str, ids: tuple[int, ...]) -> Objective:
    """F for one token, or for one less another.

    Raises:
        UnknownNameError: no such objective.
    """
    if name not in OBJECTIVES:
        raise unknown_name("objective", name, OBJECTIVES)

    def objective(logits: Float[Tensor, "row vocabulary"]) -> Float[Tensor, " row"]:
        figures = OBJECTIVES[name](logits.float())
        return figures[:, ids[0]] - (figures[:, ids[1]] if len(ids) == 2 else 0.0)

    return objective
