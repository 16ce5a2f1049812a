"""A `HookedTransformer` as Hugging Face's `generate` sees a model, with TransformerLens' cache.

Parts of a bridge that nobody hooks, run as Hugging Face wrote them: they take less time so.

A bridge computes attention step by step and asks hook points at every step, whether or not
somebody listens. For a token at a time that takes longer than the arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.tl_compat import key_value_cache


class LensCache:
    """TransformerLens' keys and values, with what beam search asks of a cache."""

    is_compileable = False

    def __init__(self, model: HookedModel, n_rows: int) -> None:
        self.kept = key_value_cache(model, n_rows)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """How many positions are kept."""
        return int(self.kept[0].past_keys.shape[1])

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Give each beam the past of the beam that it goes on from."""
        for entry in self.kept.entries:
            entry.past_keys = entry.past_keys[beam_idx.to(entry.past_keys.device)]
            entry.past_values = entry.past_values[beam_idx.to(entry.past_values.device)]


def lens_cache(model: HookedModel, n_rows: int) -> LensCache:
    """An empty cache for as many rows."""
    return LensCache(model, n_rows)


def lens_model(model: HookedModel) -> Any:
    """`model` with the few methods that Hugging Face's decoding calls."""

    class LensModel(PreTrainedModel, GenerationMixin):
        """Runs `model`; it has no weights of its own."""

        @property
        def device(self) -> torch.device:
            return torch.device(model.cfg.device)

        @property
        def dtype(self) -> torch.dtype:
            dtype: torch.dtype = model.cfg.dtype
            return dtype

        def prepare_inputs_for_generation(
            self,
            input_ids: Any,
            next_sequence_length: Any = None,
            past_key_values: Any = None,
            attention_mask: Any = None,
            inputs_embeds: Any = None,
            is_first_iteration: Any = None,
            **kwargs: Any,
        ) -> Any:
            # One prompt has no padding, so every position counts, whatever the mask.
            start = 0 if past_key_values is None else past_key_values.get_seq_length()
            return {"input_ids": input_ids[:, start:], "past_key_values": past_key_values}

        def forward(self, input_ids: Any, past_key_values: Any = None, **_: Any) -> Any:
            logits = model(
                input_ids,
                attention_mask=torch.ones_like(input_ids),
                past_kv_cache=None if past_key_values is None else past_key_values.kept,
            )
            return CausalLMOutputWithPast(logits=logits, past_key_values=past_key_values)

    return LensModel(PretrainedConfig.from_dict({"vocab_size": int(model.cfg.d_vocab)}))


@contextmanager
def unhooked_parts_plain(model: HookedModel) -> Iterator[None]:
    """Inside, modules without a hook anywhere in them run the code of the module that they wrap.

    A module that holds a hooked one stays as it is: what it computes may differ in its steps.
    """
    plain = [] if getattr(model, "compatibility_mode", False) else _plain(model)
    for module, wrapped in plain:
        vars(module)["forward"] = wrapped.forward
    try:
        yield
    finally:
        for module, _ in plain:
            del vars(module)["forward"]


def _plain(model: HookedModel) -> list[tuple[Any, Any]]:
    """The modules of the layers that nobody hooks, each with the module that it wraps."""
    found: list[tuple[Any, Any]] = []
    known: dict[int, bool] = {}
    blocks: Any = getattr(model, "blocks", ())
    for block in blocks:
        _gather(block, found, known)
    return found


def _gather(module: Any, found: list[tuple[Any, Any]], known: dict[int, bool]) -> bool:
    """Whether a hook is in the module or in any part of it; those without are put down."""
    if id(module) not in known:
        known[id(module)] = bool(getattr(module, "fwd_hooks", None))
        for part in module.children():
            known[id(module)] |= _gather(part, found, known)
        wrapped = getattr(module, "original_component", None)
        if wrapped is not None and not known[id(module)] and "forward" not in vars(module):
            found.append((module, wrapped))
    return known[id(module)]
