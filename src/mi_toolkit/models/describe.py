"""`describe_model`: the facts of any loaded model, from the Hugging Face config and weights.

A `HookedTransformer` carries no Hugging Face config; `describe_hooked` reads its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mi_toolkit.core.model import HookedModel, weights_digest
from mi_toolkit.core.process_state import require_hooks
from mi_toolkit.core.provenance import Provenance
from mi_toolkit.core.tokens import TokenBatch
from mi_toolkit.models.facts import ModelFacts
from mi_toolkit.models.specs import Normalisation, Positional, family_of

_POSITIONAL: Mapping[str, Positional] = {
    "standard": "learned",
    "shortformer": "learned",
    "rotary": "rotary",
    "alibi": "alibi",
}


def facts_of_hooked_transformer(model: Any) -> ModelFacts:
    """The facts of a `HookedTransformer`, or of TransformerLens' own modules in a bridge."""
    cfg = model.cfg
    architecture = cfg.original_architecture or type(model).__name__
    parameter = next(model.parameters())
    positional = _POSITIONAL.get(cfg.positional_embedding_type, "none")
    rotary = positional == "rotary"
    local_base = getattr(cfg, "rotary_base_local", None) if rotary else None
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
        rotary_fraction=(cfg.rotary_dim or cfg.d_head) / cfg.d_head if rotary else None,
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
    if getattr(cfg, "use_yarn_rope", False):
        return {"rope_type": "yarn", "factor": cfg.yarn_factor}
    if getattr(cfg, "rotary_scaling_factor", 1.0) != 1.0:
        return {"rope_type": "linear", "factor": cfg.rotary_scaling_factor}
    return None


def _tied(model: Any) -> bool:
    """Whether W_U equals W_E transposed: a HookedTransformer holds both, tied or not."""
    embedding, unembedding = model.embed.W_E, model.unembed.W_U
    return embedding.shape == unembedding.mT.shape and torch.equal(embedding, unembedding.mT)


_ALIBI = frozenset({"bloom", "mpt"})
_PARALLEL = frozenset({"gptj", "codegen", "phi", "cohere", "cohere2"})
QKV_BIAS = re.compile(
    r"\b(q|k|v|qkv|q_proj|k_proj|v_proj|qkv_proj|c_attn|query_key_value|Wqkv)\.bias$"
)
QK_NORM = re.compile(r"\b(q_norm|k_norm|q_layernorm|k_layernorm)\.")
_GATE = re.compile(r"\b(gate_proj|gate_up_proj|gate)\.weight$")
_LEARNED = re.compile(r"\b(wpe|embed_positions|position_embeddings|pos_embed)\.weight$")

_INSERTED = re.compile(r"\.(base_layer|parametrizations)\.")


def describe_model(model: Any) -> ModelFacts:
    """The facts of `model`: a hooked model of either kind, or a Hugging Face one.

    >>> from mi_toolkit.models import load_model
    >>> facts = describe_model(load_model("toy-gpt-neo"))
    >>> facts.windows, facts.qkv_bias
    ((None, 32, None, 32), False)

    What the config leaves to the code is known for the common families only: ALiBi, parallel
    attention and MLP. Attention in chunks (Llama 4) is not a window and is shown as global.

    Raises:
        ModelTypeError: a name, or anything else that is no model.
    """
    if not isinstance(model, nn.Module):
        require_hooks(model, "describe_model")
    original = getattr(model, "original_model", None)
    # TransformerLens' own modules, in a HookedTransformer or a bridge (`boot_native`).
    if hasattr(model, "cfg") and not hasattr(original, "config"):
        return facts_of_hooked_transformer(model)
    hf_model = model if original is None else original
    config = hf_model.config.get_text_config()
    name = model.cfg.model_name if hasattr(model, "cfg") else config.name_or_path
    weights = _weight_names(hf_model)
    parameter = next(hf_model.parameters())
    n_heads = int(getattr(config, "num_attention_heads", 0))  # none in recurrent models
    return ModelFacts(
        name=name,
        family=family_of(name, config.model_type),
        architecture=type(hf_model).__name__,
        n_layers=int(config.num_hidden_layers),
        n_heads=n_heads,
        n_kv_heads=_n_kv_heads(config),
        d_model=int(config.hidden_size),
        d_head=_d_head(config),
        d_mlp=mlp_width(config),
        d_vocab=int(config.vocab_size),
        context=_context(model, config),
        **_positions(config, weights),
        activation=_activation(config),
        gated_mlp=any(_GATE.search(name) for name in weights),
        parallel_attention_mlp=_parallel(config),
        normalisation=_normalisation(hf_model),
        windows=attention_windows(config),
        qkv_bias=any(QKV_BIAS.search(name) for name in weights),
        qk_norm=any(QK_NORM.search(name) for name in weights),
        tied_embeddings=bool(config.tie_word_embeddings),
        dtype=str(parameter.dtype).removeprefix("torch."),
        device=str(parameter.device),
        revision=getattr(getattr(model, "cfg", None), "revision", None),
    )


def attention_windows(config: Any) -> tuple[int | None, ...]:
    """The sliding window of each layer, by a Hugging Face config; None for a global layer.

    A window of w lets query q see keys q-w+1 to q, itself included: transformers' own meaning of
    `sliding_window`, and of GPT-Neo's `window_size`.
    """
    n_layers = int(config.num_hidden_layers)
    if config.model_type == "gpt_neo":
        local = [kind == "local" for kind in config.attention_layers]
        return tuple(int(config.window_size) if is_local else None for is_local in local)
    window = getattr(config, "sliding_window", None)
    if window is None:
        return (None,) * n_layers
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return tuple(int(window) if kind == "sliding_attention" else None for kind in kinds)
    # Mistral and Phi-3 know no layer types: a window there is every layer's.
    return (int(window) if getattr(config, "use_sliding_window", True) else None,) * n_layers


def _weight_names(hf_model: nn.Module) -> list[str]:
    """Parameter names as transformers has them, without what bridges and adapters put between."""
    names = (name.replace("._original_component", "") for name, _ in hf_model.named_parameters())
    return [_INSERTED.sub(".", name).removesuffix(".original") for name in names]


def _n_kv_heads(config: Any) -> int:
    n_heads = int(getattr(config, "num_attention_heads", 0))
    if hasattr(config, "multi_query") and not getattr(config, "new_decoder_architecture", False):
        # Falcon and GPT-BigCode: one for all or one each, whatever else the config says.
        return 1 if config.multi_query else n_heads
    for field in ("num_key_value_heads", "num_kv_heads"):
        if getattr(config, field, None) is not None:
            return int(getattr(config, field))
    return n_heads


def _d_head(config: Any) -> int:
    n_heads = getattr(config, "num_attention_heads", 0)
    given = getattr(config, "head_dim", None)
    return int(given or (config.hidden_size // n_heads if n_heads else 0))


def mlp_width(config: Any) -> int:
    """Neurons of an MLP, by a Hugging Face config; of one expert in a mixture."""
    for field in ("ffn_dim", "n_inner", "intermediate_size", "ffn_hidden_size"):
        if getattr(config, field, None) is not None:
            return int(getattr(config, field))
    # GPT-2, GPT-Neo, GPT-J and BLOOM leave it out where it is four times the width.
    return 4 * int(config.hidden_size)


def _context(model: Any, config: Any) -> int:
    if getattr(config, "max_position_embeddings", None) is not None:
        return int(config.max_position_embeddings)
    return int(model.cfg.n_ctx)  # ALiBi configs have no limit; this is TransformerLens' choice


def _activation(config: Any) -> str:
    for field in ("activation_function", "hidden_activation", "hidden_act", "activation"):
        if getattr(config, field, None) is not None:
            return str(getattr(config, field))
    return "gelu"  # BLOOM and MPT have it in their code


def _parallel(config: Any) -> bool:
    return bool(
        config.model_type in _PARALLEL
        or getattr(config, "use_parallel_residual", False)
        or getattr(config, "parallel_attn", False)
    )


def _normalisation(hf_model: nn.Module) -> Normalisation:
    rms = any("RMSNorm" in type(module).__name__ for module in hf_model.modules())
    return "RMSNorm" if rms else "LayerNorm"


def _positions(config: Any, weights: list[str]) -> dict[str, Any]:
    """The facts on positions: `positional` and the rotary ones."""
    rope = getattr(config, "rope_parameters", None) or {}
    rotary_dim = getattr(config, "rotary_dim", None)
    local = rope.get("sliding_attention")
    rope = rope.get("full_attention", rope)
    positional: Positional = "none"
    if config.model_type in _ALIBI or getattr(config, "alibi", False):
        positional, rope, rotary_dim = "alibi", {}, None
    elif rope or rotary_dim:
        positional = "rotary"
    elif any(_LEARNED.search(name) for name in weights):
        positional = "learned"
    fraction = rope.get("partial_rotary_factor", 1.0)
    if rotary_dim:
        fraction = rotary_dim / _d_head(config)
    base = rope.get("rope_theta")
    local_base = local["rope_theta"] if local else None
    return {
        "positional": positional,
        "rope_base": None if base is None else float(base),
        "rope_local_base": None if local_base in (None, base) else float(local_base),
        "rope_scaling": _scaling(rope),
        "rotary_fraction": float(fraction) if positional == "rotary" else None,
    }


def _scaling(rope: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if rope.get("rope_type", "default") == "default":
        return None
    apart = ("rope_theta", "partial_rotary_factor")
    return {key: value for key, value in rope.items() if key not in apart}


def provenance_of(
    model: HookedModel,
    batches: Mapping[str, TokenBatch],
    *,
    seed: int,
    attention: Mapping[str, str] | None = None,
) -> Provenance:
    """Model, versions and protocol; each batch by its stimulus, or by the part that it plays."""
    facts = describe_model(model)
    return Provenance(
        model=facts.name,
        revision=facts.revision,
        backend=type(model).__name__,
        dtype=facts.dtype,
        seed=seed,
        checked=getattr(model.cfg, "checked", None),
        bos={name: batch.bos for name, batch in batches.items()},
        bos_id=next((batch.bos_id for batch in batches.values()), None),
        prompts={name: batch.digest for name, batch in batches.items()},
        attention=dict(attention or {}),
    )


def model_identity(model: HookedModel) -> dict[str, Any]:
    """Name, revision, class and dtype, and a digest of the weights."""
    facts = describe_model(model)
    return {
        "name": facts.name,
        "revision": facts.revision,
        "backend": type(model).__name__,
        "dtype": facts.dtype,
        "weights": weights_digest(model),
    }
