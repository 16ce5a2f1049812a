"""From and to TransformerLens' `ActivationCache`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mi_toolkit.activations.activations import Activations
from mi_toolkit.activations.errors import ActivationsError
from mi_toolkit.activations.hooks import fits
from mi_toolkit.activations.names import is_pattern
from mi_toolkit.activations.positions import choose_positions
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.prompts.token_texts import token_texts
from mi_toolkit.prompts.tokens import TokenBatch, tokenise
from mi_toolkit.transformer_lens_door import activation_cache


def to_cache(activations: Activations, model: HookedModel) -> Any:
    """An `ActivationCache` with the same tensors."""
    whole = choose_positions(None, activations.batch.lengths)
    if activations.chosen.single or not torch.equal(whole.table, activations.positions):
        raise ActivationsError(
            "An ActivationCache holds all positions: record with positions=None to convert."
        )
    return activation_cache(dict(activations.tensors), model)


def from_cache(cache: Any, model: HookedModel, tokens: Any) -> Activations:
    """What a cache holds per token, on the CPU; its other entries are left out."""
    batch = tokens if isinstance(tokens, TokenBatch) else tokenise(model, tokens)
    n_prompts, length = batch.ids.shape
    tensors: dict[str, Tensor] = {}
    for name, tensor in cache.items():
        whole = tensor if cache.has_batch_dim else tensor[None]
        if whole.is_floating_point() and fits(name, tuple(whole.shape), n_prompts, length):
            tensors[name] = _unpadded(name, whole.expand(n_prompts, *whole.shape[1:]), batch)
    if not tensors:
        raise ActivationsError(
            f"The cache holds nothing per token of {n_prompts} prompts of {length} tokens: give "
            "the ids that the model ran on."
        )
    return Activations(
        model=model.cfg.model_name,
        n_layers=int(model.cfg.n_layers),
        tensors=tensors,
        batch=batch,
        chosen=choose_positions(None, batch.lengths),
        texts=tuple(
            token_texts(model.tokenizer, batch.sequence(index).tolist())
            for index in range(len(batch))
        ),
    )


def _unpadded(name: str, tensor: Tensor, batch: TokenBatch) -> Tensor:
    """The tensor on the CPU, 0 at padded positions (queries, and keys)."""
    kept = tensor.detach().to(device="cpu", copy=True)
    for prompt, length in enumerate(batch.lengths.tolist()):
        if is_pattern(name):
            kept[prompt, :, length:] = 0
        else:
            kept[prompt, length:] = 0
    return kept
