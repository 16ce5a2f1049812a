"""What stands for no information in a token's place, and the embeddings it is put into.

Token embeddings at `hook_embed`: read, and put in place of a prompt's own.

The hook stands after the embedding of tokens and before positions are added; where a model
projects its embeddings (OPT-350m), before that too. So its width need not be the model's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.core.errors import HookError, PromptError, unknown_name
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.passes import visit_activations
from mi_toolkit.core.predictions import Token, token_id
from mi_toolkit.core.tokenizer import bos_token_id

EMBED_HOOK = "hook_embed"
_ROWS, _LONGEST = 16, 512


def embeddings_of(
    model: HookedModel, ids: Int[Tensor, " position"]
) -> Float[Tensor, "position d_embed"]:
    """The embedding of each id, as a forward pass looks it up; the pass ends there."""
    kept: list[Tensor] = []

    def keep(_: str, found: Tensor) -> None:
        kept.append(found[0].clone())

    visit_activations(model, ids[None], [EMBED_HOOK], keep)
    return kept[0]


def mean_embedding(model: HookedModel) -> Float[Tensor, " d_embed"]:
    """The mean over the vocabulary, every row of the embedding counted once."""
    length = min(_LONGEST, int(model.cfg.n_ctx))
    total = torch.zeros((), dtype=torch.float64)

    def add(_: str, found: Tensor) -> None:
        nonlocal total
        total = total + found.double().sum(dim=(0, 1)).cpu()

    vocabulary = torch.arange(int(model.cfg.d_vocab))
    for part in vocabulary.split(_ROWS * length):
        whole = len(part) // length * length
        for rows in (part[:whole].view(-1, length), part[None, whole:]):
            if rows.numel():
                visit_activations(model, rows, [EMBED_HOOK], add)
    return (total / len(vocabulary)).float()


@contextmanager
def replaced_embeddings(
    model: HookedModel, embeddings: Float[Tensor, "row position d_embed"]
) -> Iterator[None]:
    """Inside, a pass runs on these embeddings, whatever its ids; positions are added as ever.

    Raises:
        HookError: nothing looked an embedding up.
    """
    fired = []

    def put(found: Tensor, hook: object) -> Tensor:
        fired.append(hook)
        return embeddings

    with model.hooks(fwd_hooks=[(EMBED_HOOK, put)]):
        yield
    if not fired:
        raise HookError(
            f"{EMBED_HOOK} of {model.cfg.model_name} did not fire, so nothing can be attributed to "
            "its tokens."
        )


_SPECIAL: Mapping[str, Callable[[Any], int | None]] = MappingProxyType(
    {
        "bos": bos_token_id,
        "eos": lambda tokenizer: tokenizer.eos_token_id,
        "pad": lambda tokenizer: tokenizer.pad_token_id,
        "unk": lambda tokenizer: tokenizer.unk_token_id,
    }
)

BASELINES = ("mean", "zero", *_SPECIAL)
"""The baselines with names. Any token serves as well, by its id or by its exact text."""

DEFAULT_BASELINE = "mean"
"""From zero, a norm leaps at once: in a deep model with RMSNorm no integral from there adds up."""


def baseline_embedding(
    model: HookedModel, baseline: int | str, like: Float[Tensor, "position d_embed"]
) -> Float[Tensor, "position d_embed"]:
    """The baseline's embedding at every position, in the shape, dtype and place of `like`.

    Raises:
        PromptError: the tokenizer has no such token, or the text is not one token.
    """
    if baseline == "zero":
        return torch.zeros_like(like)
    if baseline == "mean":
        return mean_embedding(model).to(like).expand_as(like)
    token = _token(model, baseline)
    return embeddings_of(model, torch.tensor([token])).to(like).expand_as(like)


def _token(model: HookedModel, baseline: int | str) -> int:
    if isinstance(baseline, str) and baseline in _SPECIAL and model.tokenizer is not None:
        token = _SPECIAL[baseline](model.tokenizer)
        if token is None:
            raise PromptError(
                f"The tokenizer of {model.cfg.model_name} has no {baseline} token to take as the "
                f"baseline. Take one of {', '.join(BASELINES)}, or any token."
            )
        return int(token)
    try:
        return token_id(model, baseline)
    except PromptError as error:
        raise PromptError(
            f"No such baseline: {error} Baselines with names: {', '.join(BASELINES)}."
        ) from error


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
