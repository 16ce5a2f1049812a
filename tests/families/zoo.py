"""Tiny random models of every family that TransformerLens hooks and transformers can build.

A row is a name, a `model_type` and what its config needs beyond `WIDTHS`. Variants (biases,
windows, multipliers, masks) are rows like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

WIDTHS: Mapping[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "vocab_size": 320,
    "max_position_embeddings": 128,
}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "vocab_size": 320}
MOE = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
}
MLA = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One tiny model."""

    model_type: str
    """Of transformers' config."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Beyond the widths; None takes a width away."""


def config_of(row: Row) -> Any:
    """The config of one row."""
    default = AutoConfig.for_model(row.model_type)
    own = getattr(default, "attribute_map", {})
    fields = {
        key: value
        for key, value in WIDTHS.items()
        if (hasattr(default, key) or key in own) and row.fields.get(key, value) is not None
    }
    fields |= {key: value for key, value in IDS.items() if hasattr(default, key)}
    fields |= {key: value for key, value in row.fields.items() if value is not None}
    return AutoConfig.for_model(row.model_type, **fields)


def build(row: Row) -> Any:
    """The Hugging Face model, with every weight random: biases and norms too."""
    config = config_of(row)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.08 * torch.randn(weight.shape, generator=generator)
    return model.requires_grad_(requires_grad=False)


_MHA = {"num_key_value_heads": None}
_FALCON = {"head_dim": None, "num_key_value_heads": None}
_MLA_ROW = {**MLA, **MOE, "num_key_value_heads": 4, "v_head_dim": 8, "first_k_dense_replace": 1}
_DEEPSEEK_2 = {**_MLA_ROW, "head_dim": None, "topk_method": "greedy", "n_shared_experts": 1}
_NEO = {"num_layers": 2, "num_heads": 4, "num_hidden_layers": None, "num_attention_heads": None}
_XGLM = {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 48}
_SSM = {"state_size": 8, "num_hidden_layers": 2}
_SSM_2 = {
    "num_heads": 8,
    "head_dim": 8,
    "state_size": 8,
    "n_groups": 1,
    "chunk_size": 8,
    "num_attention_heads": None,
    "num_key_value_heads": None,
}
_LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
_LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.0, 2.0, 3.0, 4.0],
    "original_max_position_embeddings": 16,
}


def _row(model_type: str, **fields: Any) -> Row:
    return Row(model_type=model_type, fields=fields)


ROWS: Mapping[str, Row] = {
    "gpt2": _row("gpt2", **GPT),
    "gpt2, scaled by layer": _row("gpt2", **GPT, scale_attn_by_inverse_layer_idx=True),
    "gpt2, upcast": _row("gpt2", **GPT, reorder_and_upcast_attn=True),
    "gpt2, unscaled": _row("gpt2", **GPT, scale_attn_weights=False),
    "gpt2, untied": _row("gpt2", **GPT, tie_word_embeddings=False),
    "openai-gpt": _row("openai-gpt", **GPT),
    "gpt_bigcode": _row("gpt_bigcode", **GPT),
    "gpt_bigcode, multi-head": _row("gpt_bigcode", **GPT, multi_query=False),
    "gpt_neo": _row("gpt_neo", **_NEO, attention_types=[[["global", "local"], 1]], window_size=8),
    "gpt_neox": _row("gpt_neox"),
    "gpt_neox, sequential": _row("gpt_neox", use_parallel_residual=False),
    "gpt_neox, no attention bias": _row("gpt_neox", attention_bias=False),
    "gptj": _row("gptj", **GPT, rotary_dim=4),
    "codegen": _row("codegen", **GPT, rotary_dim=4),
    "opt": _row("opt", ffn_dim=48, word_embed_proj_dim=32),
    "opt, norms after": _row("opt", ffn_dim=48, word_embed_proj_dim=32, do_layer_norm_before=False),
    "opt, as 350m": _row("opt", ffn_dim=48, word_embed_proj_dim=16, do_layer_norm_before=False),
    "opt, no last norm": _row(
        "opt", ffn_dim=48, word_embed_proj_dim=32, _remove_final_layer_norm=True
    ),
    "bloom": _row("bloom", n_layer=2, n_head=4),
    "mpt": _row("mpt", d_model=32, n_heads=4, n_layers=2, max_seq_len=128),
    "falcon": _row("falcon", **_FALCON, multi_query=False, num_kv_heads=4),
    "falcon, multi-query": _row("falcon", **_FALCON),
    "falcon, new decoder": _row("falcon", **_FALCON, new_decoder_architecture=True, num_kv_heads=2),
    "falcon, new decoder, one norm": _row(
        "falcon",
        **_FALCON,
        new_decoder_architecture=True,
        num_kv_heads=2,
        num_ln_in_parallel_attn=1,
        alibi=True,
        bias=True,
    ),
    "falcon, sequential": _row("falcon", **_FALCON, parallel_attn=False, multi_query=False),
    "falcon, alibi": _row("falcon", **_FALCON, alibi=True, bias=True, multi_query=False),
    "xglm": _row("xglm", **_XGLM, hidden_size=None, num_hidden_layers=None),
    "llama": _row("llama"),
    "llama, biases, tied": _row(
        "llama", attention_bias=True, mlp_bias=True, tie_word_embeddings=True
    ),
    "llama, multi-query": _row("llama", num_key_value_heads=1),
    "llama, yarn, wide heads": _row("llama", rope_parameters=_YARN, head_dim=12),
    "llama, not causal": _row("llama", is_causal=False),
    "mistral": _row("mistral", sliding_window=8),
    "mixtral": _row("mixtral", num_local_experts=4),
    "qwen2": _row("qwen2"),
    "qwen2, windows": _row("qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=1),
    "qwen2_moe": _row("qwen2_moe", **MOE, shared_expert_intermediate_size=16),
    "qwen3": _row("qwen3"),
    "qwen3_moe": _row("qwen3_moe", **MOE),
    "phi": _row("phi"),
    "phi, norms of queries": _row("phi", qk_layernorm=True),
    "phi3": _row("phi3"),
    "phi3, longrope": _row("phi3", rope_parameters=_LONG, original_max_position_embeddings=16),
    "gemma": _row("gemma"),
    "gemma2": _row("gemma2", sliding_window=8),
    "gemma3_text": _row("gemma3_text", sliding_window=8, num_hidden_layers=6),
    "gemma3_text, bidirectional": _row(
        "gemma3_text", sliding_window=8, num_hidden_layers=6, use_bidirectional_attention=True
    ),
    "gemma3_text, capped": _row(
        "gemma3_text", attn_logit_softcapping=2.0, final_logit_softcapping=1.0
    ),
    "llama4_text": _row(
        "llama4_text",
        attention_chunk_size=8,
        num_hidden_layers=4,
        num_local_experts=2,
        intermediate_size_mlp=48,
    ),
    "olmo": _row("olmo"),
    "olmo, clipped": _row("olmo", clip_qkv=0.2),
    "olmo2": _row("olmo2"),
    "olmo3": _row("olmo3", sliding_window=8),
    "olmoe": _row("olmoe", num_experts=4, num_experts_per_tok=2),
    "glm": _row("glm"),
    "glm4": _row("glm4"),
    "glm4_moe": _row("glm4_moe", **MOE, first_k_dense_replace=1),
    "granite": _row("granite", residual_multiplier=0.22, logits_scaling=2.0),
    "granite, all factors": _row(
        "granite",
        attention_multiplier=0.5,
        embedding_multiplier=12.0,
        residual_multiplier=0.5,
        logits_scaling=8.0,
        attention_bias=True,
    ),
    "granitemoe": _row("granitemoe", num_local_experts=4),
    "starcoder2": _row("starcoder2", sliding_window=8),
    "stablelm": _row("stablelm"),
    "stablelm, all options": _row(
        "stablelm", use_qkv_bias=True, qk_layernorm=True, use_parallel_residual=True
    ),
    "smollm3": _row("smollm3"),
    "seed_oss": _row("seed_oss"),
    "nemotron": _row("nemotron"),
    "cohere": _row("cohere"),
    "cohere2": _row("cohere2", sliding_window=8, num_hidden_layers=4),
    "exaone4": _row("exaone4", sliding_window=8, sliding_window_pattern=2),
    "ernie4_5": _row("ernie4_5"),
    "hunyuan_v1_dense": _row("hunyuan_v1_dense"),
    "gpt_oss": _row("gpt_oss", num_local_experts=4, sliding_window=8),
    "deepseek_v2": _row("deepseek_v2", **_DEEPSEEK_2),
    "deepseek_v3": _row("deepseek_v3", **_MLA_ROW, head_dim=4, n_shared_experts=1),
    "apertus": _row("apertus"),
    "arcee": _row("arcee"),
    "nanochat": _row("nanochat"),
    "lfm2": _row("lfm2", layer_types=["conv", "full_attention"]),
    "qwen3_next": _row("qwen3_next", **_LINEAR, **MOE, shared_expert_intermediate_size=16),
    "falcon_h1": _row(
        "falcon_h1",
        mamba_d_ssm=32,
        mamba_n_heads=4,
        mamba_d_head=8,
        mamba_n_groups=1,
        mamba_d_state=8,
        mamba_chunk_size=8,
    ),
    "modernbert-decoder": _row("modernbert-decoder", local_attention=8),
    "vaultgemma": _row("vaultgemma", sliding_window=8),
    "mamba": _row("mamba", **_SSM),
    "mamba2": _row("mamba2", **_SSM_2),
    "rwkv": _row("rwkv", attention_hidden_size=32, context_length=128),
}
"""By the name that people see."""
