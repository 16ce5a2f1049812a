"""The facts of a `HookedTransformer` (TransformerLens 3), read off its own `cfg` and weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mi_toolkit.models.facts import ModelFacts
from mi_toolkit.models.model_spec import Positional
from mi_toolkit.models.registry import family_of

_POSITIONAL: Mapping[str, Positional] = {
    "standard": "learned",
    "shortformer": "learned",
    "rotary": "rotary",
    "alibi": "alibi",
}


def facts_of_hooked_transformer(model: Any) -> ModelFacts:
    """The facts of a `HookedTransformer`."""
    cfg = model.cfg
    architecture = cfg.original_architecture or type(model).__name__
    parameter = next(model.parameters())
    positional = _POSITIONAL.get(cfg.positional_embedding_type, "none")
    rotary = positional == "rotary"
    local_base = cfg.rotary_base_local if rotary else None
    return ModelFacts(
        name=cfg.model_name,
        family=family_of(
            cfg.model_name, architecture.removesuffix("ForCausalLM").removesuffix("LMHeadModel")
        ),
        architecture=architecture,
        n_layers=cfg.n_layers,
        n_heads=cfg.n_heads,
        n_kv_heads=cfg.n_key_value_heads or cfg.n_heads,
        d_model=cfg.d_model,
        d_head=cfg.d_head,
        d_mlp=cfg.d_mlp or 0,
        d_vocab=cfg.d_vocab,
        context=cfg.n_ctx,
        positional=positional,
        rope_base=float(cfg.rotary_base) if rotary else None,
        rope_local_base=None if local_base in (None, cfg.rotary_base) else float(local_base),
        rope_scaling=_rope_scaling(cfg),
        rotary_fraction=cfg.rotary_dim / cfg.d_head if rotary else None,
        activation=cfg.act_fn or "none",
        gated_mlp=cfg.gated_mlp,
        parallel_attention_mlp=cfg.parallel_attn_mlp,
        normalisation="RMSNorm"
        if (cfg.normalization_type or "").startswith("RMS")
        else "LayerNorm",
        windows=hooked_windows(cfg),
        qkv_bias=any(
            bool(bias.any())
            for block in model.blocks
            for bias in (block.attn.b_Q, block.attn.b_K, block.attn.b_V)
        ),
        qk_norm=cfg.use_qk_norm,
        tied_embeddings=_tied(model),
        dtype=str(parameter.dtype).removeprefix("torch."),
        device=str(parameter.device),
        revision=getattr(cfg, "revision", None),
    )


def hooked_windows(cfg: Any) -> tuple[int | None, ...]:
    """The sliding window of each layer; None for a global layer."""
    if not cfg.use_local_attn:
        return (None,) * int(cfg.n_layers)
    return tuple(int(cfg.window_size) if kind == "local" else None for kind in cfg.attn_types)


def _rope_scaling(cfg: Any) -> Mapping[str, Any] | None:
    """The stretching of rotary frequencies, in the words of a Hugging Face config."""
    if cfg.use_NTK_by_parts_rope:
        return {
            "rope_type": "llama3",
            "factor": cfg.NTK_by_parts_factor,
            "low_freq_factor": cfg.NTK_by_parts_low_freq_factor,
            "high_freq_factor": cfg.NTK_by_parts_high_freq_factor,
            "original_max_position_embeddings": cfg.NTK_original_ctx_len,
        }
    if cfg.use_yarn_rope:
        return {"rope_type": "yarn", "factor": cfg.yarn_factor}
    if cfg.rotary_scaling_factor != 1.0:
        return {"rope_type": "linear", "factor": cfg.rotary_scaling_factor}
    return None


def _tied(model: Any) -> bool:
    """Whether W_U equals W_E transposed: a HookedTransformer holds both, tied or not."""
    embedding, unembedding = model.embed.W_E, model.unembed.W_U
    return embedding.shape == unembedding.mT.shape and torch.equal(embedding, unembedding.mT)
