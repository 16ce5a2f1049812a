"""The facts of a model in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mi_toolkit.shown import human_count

if TYPE_CHECKING:
    from mi_toolkit.models.facts import ModelFacts


def fact_rows(facts: ModelFacts) -> list[list[str]]:
    """What a fact is about, and the fact, as people read it."""
    count = human_count(facts.parameters)
    shared = f", keys and values {facts.n_kv_heads}" if facts.n_kv_heads != facts.n_heads else ""
    bias = "with biases" if facts.qkv_bias else "without biases"
    norms = ", queries and keys normalised" if facts.qk_norm else ""
    gated = ", gated" if facts.gated_mlp else ""
    beside = "beside attention" if facts.parallel_attention_mlp else "after attention"
    tied = "one matrix, in and out" if facts.tied_embeddings else "two matrices, in and out"
    revision = f", revision {facts.revision}" if facts.revision else ""
    return [
        ["family", f"{facts.family} ({facts.architecture})"],
        ["parameters", f"{count} in attention and MLPs, as TransformerLens counts them"],
        ["layers × heads", f"{facts.n_layers} × {facts.n_heads}{shared}"],
        ["widths", f"model {facts.d_model:,}, head {facts.d_head:,}, MLP {facts.d_mlp:,}"],
        ["vocabulary", f"{facts.d_vocab:,}"],
        ["context", f"{facts.context:,} tokens"],
        ["positions", _positions(facts)],
        ["attention", facts.attention_scope],
        ["Q, K, V", f"{bias}{norms}"],
        ["MLP", f"{facts.activation}{gated}, {beside}"],
        ["norm", facts.normalisation],
        ["embeddings", tied],
        ["weights", f"{facts.dtype} on {facts.device}{revision}"],
    ]


def _positions(facts: ModelFacts) -> str:
    parts: list[str] = [facts.positional]
    if facts.rope_base is not None:
        parts.append(f"base {facts.rope_base:,.0f}")
    if facts.rope_local_base is not None:
        parts.append(f"base {facts.rope_local_base:,.0f} in windowed layers")
    if facts.rotary_fraction is not None:
        parts.append(f"{facts.rotary_fraction:.0%} of each head")
    if facts.rope_scaling is not None:
        stretched = ", ".join(f"{key} {value}" for key, value in facts.rope_scaling.items())
        parts.append(f"scaled ({stretched})")
    return ", ".join(parts)
