"""A `HookedTransformer` as Hugging Face's `generate` sees a model, with TransformerLens' cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.transformer_lens_door import key_value_cache


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
    from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import CausalLMOutputWithPast

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
