"""What stands for no information in the place of a token's embedding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mi_toolkit.attribution.embeddings import embeddings_of, mean_embedding
from mi_toolkit.errors import PromptError
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.predictions import token_id
from mi_toolkit.prompts.bos import bos_token_id

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
