"""What a loaded model is: the record that `describe_model` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from mi_toolkit.core.display import TableRepr, TextTable, human_count
from mi_toolkit.models.checkpoints import load_config
from mi_toolkit.models.sources import find_source, is_here
from mi_toolkit.models.specs import (
    MODELS,
    Normalisation,
    Positional,
    describe_windows,
    find_known,
    hidden_parameters,
)


@dataclass(frozen=True, kw_only=True, repr=False)
class ModelFacts(TableRepr):
    """The architecture of one loaded model, read off its config and weights, never assumed."""

    name: str
    """The model's name, as `load_model` was given it, or the official one for an alias."""
    family: str
    """The architecture family, as in `GPT-2`; of an unknown one, the config's `model_type`."""
    architecture: str
    """The Hugging Face class, such as `GPT2LMHeadModel`."""
    n_layers: int
    """Blocks of attention and MLP."""
    n_heads: int
    """Query heads per layer."""
    n_kv_heads: int
    """Key/value heads per layer. Query head h reads from KV head `h // (n_heads // n_kv_heads)`."""
    d_model: int
    """Width of the residual stream."""
    d_head: int
    """Width of a head."""
    d_mlp: int
    """Neurons per MLP; of one expert in a mixture of experts."""
    d_vocab: int
    """Rows of the embedding."""
    context: int
    """The longest sequence that the model was built for, in tokens."""
    positional: Positional
    """How positions enter."""
    rope_base: float | None
    """Base of the rotary frequencies (θ); None without rotary positions, or where the config does
    not state it."""
    rope_local_base: float | None
    """The base in windowed layers, where it differs from the global ones' (Gemma 3); else None."""
    rope_scaling: Mapping[str, Any] | None
    """How the rotary frequencies are stretched to a longer context, as the config says it (its
    `rope_type` and factors); None if they are not."""
    rotary_fraction: float | None
    """The share of each head that turns with position (Pythia: 0.25); None without rotary ones."""
    activation: str
    """The MLP's nonlinearity, under transformers' name."""
    gated_mlp: bool
    """Whether the MLP multiplies by a gate."""
    parallel_attention_mlp: bool
    """Whether attention and MLP of a layer read the same residual stream."""
    normalisation: Normalisation
    """The kind of norm before attention and MLP."""
    windows: tuple[int | None, ...]
    """Per layer: query q sees keys q-w+1 to q, or, with None, all keys up to q."""
    qkv_bias: bool
    """Whether the Q, K and V projections have biases. Of a HookedTransformer, which always has
    them: whether any is not zero."""
    qk_norm: bool
    """Whether queries and keys are normalised before their product (Qwen3, Gemma 3)."""
    tied_embeddings: bool
    """Whether the unembedding is the embedding's transpose."""
    dtype: str
    """The weights' dtype, such as `float32`."""
    device: str
    """Where the weights are, such as `cpu` or `cuda:0`."""
    revision: str | None
    """The hub commit of the weights, or the revision asked for; None for local files."""

    def text_table(self) -> TextTable:
        """The facts as people write them."""
        return TextTable(title=self.name, rows=fact_rows(self))

    def record(self) -> dict[str, Any]:
        """The fields, as plain values."""
        return {k: dict(v) if isinstance(v, Mapping) else v for k, v in vars(self).items()}

    @property
    def parameters(self) -> int:
        """Parameters as TransformerLens counts them: see `hidden_parameters`."""
        return hidden_parameters(
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            d_model=self.d_model,
            d_head=self.d_head,
            d_mlp=self.d_mlp,
            gated_mlp=self.gated_mlp,
        )

    @property
    def attention_scope(self) -> str:
        """`windows` in words, such as `global`."""
        return describe_windows(self.windows)


def fact_rows(facts: ModelFacts) -> list[list[str]]:
    """What a fact is about, and the fact, as people read it."""
    count = human_count(facts.parameters)
    shared = f", keys and values {facts.n_kv_heads}" if facts.n_kv_heads != facts.n_heads else ""
    bias = "with biases" if facts.qkv_bias else "without biases"
    norms = ", queries and keys normalised" if facts.qk_norm else ""
    gated = ", gated" if facts.gated_mlp else ""
    beside = "next to attention" if facts.parallel_attention_mlp else "after attention"
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


def architecture_rows(facts: ModelFacts) -> dict[str, str]:
    """What a model is built of, a choice to a row: what two models are compared by."""
    return {
        "family": facts.family,
        "parameters": human_count(facts.parameters),
        "layers × heads": f"{facts.n_layers} × {facts.n_heads}",
        "key/value heads": str(facts.n_kv_heads),
        "positions": _positions(facts),
        "activation": facts.activation + (", gated" if facts.gated_mlp else ""),
        "norm": facts.normalisation + (", of queries and keys too" if facts.qk_norm else ""),
        "attention": facts.attention_scope,
        "MLP": "next to attention" if facts.parallel_attention_mlp else "after attention",
        "Q, K, V": "with biases" if facts.qkv_bias else "without biases",
        "embeddings": "one matrix" if facts.tied_embeddings else "two matrices",
        "widths": f"model {facts.d_model:,}, head {facts.d_head:,}, MLP {facts.d_mlp:,}",
        "vocabulary": f"{facts.d_vocab:,}",
        "context": f"{facts.context:,}",
    }


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


@cache
def attention_shape(name: str) -> tuple[int, int] | None:
    """Layers and query heads of a model that is known by name, without the network or its weights.

    None of one that is neither in the table nor on this machine.

    >>> attention_shape("gpt2"), attention_shape("toy-gpt2")
    ((12, 12), (4, 4))
    """
    spec = MODELS.get(name)
    if spec is not None:
        return spec.n_layers, spec.n_heads
    known = find_known(name)
    if known is None or not is_here(known):
        return None
    source = find_source(name)
    config = load_config(source, revision=None, trust_remote_code=False).get_text_config()
    return int(config.num_hidden_layers), int(config.num_attention_heads)
