"""The record of a model known by name, and of one whose facts the table states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Access = Literal["open", "gated"]
Positional = Literal["learned", "rotary", "alibi", "sinusoidal", "none"]
Normalisation = Literal["LayerNorm", "RMSNorm"]


@dataclass(frozen=True, kw_only=True)
class KnownModel:
    """A model that `load_model` knows by name."""

    name: str
    """The name in results and tables, and TransformerLens' official one where it has one."""
    family: str
    """The architecture family, as in `GPT-2` or `Pythia`."""
    aliases: tuple[str, ...] = ()
    """Other names for it, compared without case. Those with a `/` are hub ids of the same repo."""
    licence: str
    """The licence of the weights, as the model's card states it (an SPDX id where it has one)."""
    access: Access = "open"
    """`gated`: the hub asks for an account that accepted the licence, and its `HF_TOKEN`."""
    where: Literal["hub", "bundled", "package"] = "hub"
    """Where the weights come from: the hub, this package, or another installed package."""

    @property
    def hub_ids(self) -> tuple[str, ...]:
        """Every id under which the hub, or a cache filled earlier, may hold the weights."""
        return (self.name, *(alias for alias in self.aliases if "/" in alias))


@dataclass(frozen=True, kw_only=True)
class ModelSpec(KnownModel):
    """The facts of one model of the table, checked against transformers in the tests."""

    parameters: int
    """Weights of attention and MLPs, as TransformerLens counts them (see `hidden_parameters`):
    no embeddings, biases or norms. With grouped queries K and V count once per *query* head."""
    total_parameters: int
    """Every parameter of the Hugging Face model, a tied unembedding counted once."""
    n_layers: int
    """Blocks of attention and MLP."""
    n_heads: int
    """Query heads per layer."""
    n_kv_heads: int
    """Key/value heads per layer: `n_heads`, or fewer with grouped queries."""
    d_model: int
    """Width of the residual stream."""
    d_head: int
    """Width of a head."""
    d_mlp: int
    """Neurons per MLP."""
    d_vocab: int
    """Rows of the embedding. Some vocabularies are padded beyond the tokenizer's last id."""
    context: int
    """Tokens that the model can take, BOS included."""
    positional: Positional
    """How positions enter: `learned` vectors added once, or a `rotary` turn of Q and K."""
    activation: str
    """The MLP's nonlinearity, under transformers' name (`gelu_new` is the tanh approximation)."""
    gated_mlp: bool
    """Whether the MLP multiplies by a gate (SwiGLU): three matrices instead of two."""
    parallel: bool
    """Whether attention and MLP of a layer read the same residual stream."""
    normalisation: Normalisation
    """The kind of norm before attention and MLP."""
    windows: tuple[int | None, ...]
    """Per layer: the number of latest keys that a query sees, itself included; None for all."""
    qkv_bias: bool
    """Whether the Q, K and V projections have biases."""
    tied_embeddings: bool
    """Whether the unembedding is the embedding's transpose."""
    key_feature: str
    """In one line, what the model is in the table for."""
    sources: Mapping[str, str]
    """Where each fact above was read: a field's name to a URL."""

    @property
    def attention_scope(self) -> str:
        """`windows` in words: `global`, or which layers look how far."""
        return describe_windows(self.windows)


def hidden_parameters(
    *, n_layers: int, n_heads: int, d_model: int, d_head: int, d_mlp: int, gated_mlp: bool
) -> int:
    """Parameters as TransformerLens counts them: the matrices of attention and MLPs alone.

    `n_layers · (4 · d_model · n_heads · d_head + (2 or 3) · d_model · d_mlp)`, the definition of
    `HookedTransformerConfig.n_params` (TransformerLens 3). Under grouped queries it overstates
    the weights that exist: W_K and W_V are counted as if expanded to every query head.

    >>> hidden_parameters(
    ...     n_layers=12, n_heads=12, d_model=768, d_head=64, d_mlp=3072, gated_mlp=False
    ... )
    84934656
    """
    attention = 4 * d_model * n_heads * d_head
    mlp = (3 if gated_mlp else 2) * d_model * d_mlp
    return n_layers * (attention + mlp)


def describe_windows(windows: tuple[int | None, ...]) -> str:
    """A model's windows in words.

    >>> describe_windows((None, 256, None, 256))
    'global, and local (256 tokens) in layers 1, 3'
    >>> describe_windows((None, None))
    'global'
    >>> describe_windows((4096, 4096))
    'local (4096 tokens) in every layer'
    """
    sizes = sorted({window for window in windows if window is not None})
    if not sizes:
        return "global"
    if len(set(windows)) == 1:
        return f"local ({sizes[0]} tokens) in every layer"
    parts = ["global"] if None in windows else []
    for size in sizes:
        layers = ", ".join(str(i) for i, window in enumerate(windows) if window == size)
        parts.append(f"local ({size} tokens) in layers {layers}")
    return ", and ".join(parts)
