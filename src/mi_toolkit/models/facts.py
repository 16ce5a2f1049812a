"""What a loaded model is: the record that `describe_model` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mi_toolkit.models.model_spec import (
    Normalisation,
    Positional,
    describe_windows,
    hidden_parameters,
)
from mi_toolkit.shown import ShownAsTable, TextTable


@dataclass(frozen=True, kw_only=True, repr=False)
class ModelFacts(ShownAsTable):
    """The architecture of one loaded model, read off its config and weights, never assumed."""

    name: str
    """The model's name, as `load_model` was given it, or the official one behind an alias."""
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
        from mi_toolkit.models.facts_text import fact_rows

        return TextTable(title=self.name, rows=fact_rows(self))

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
