"""Attention in blocks of queries: patterns appear a block at a time, are read, and are gone.

For a block of queries, and as many heads and sequences as stay in the cache:

1. scores `q·k` against the keys that the block can see (half of all pairs, for causal attention);
2. softmax, in float32;
3. the entropy of each row falls out of both: `log Σ exp s - Σ p·s`, where `log Σ exp s` is any
   key's score less the log of its share;
4. the block is read, and multiplied by the values.

No rows are split, so each is exact. Memory grows with the length alone.

For the time of a pass, a function of ours computes a model's attention.

Queries, keys and values come as the model made them (projected, rotated); what the function returns
goes on through the model's own output projection, so hooks on `hook_q`, `hook_k`, `hook_v` and
`hook_z` fire as ever. Patterns and scores never exist as a whole, so hooks on those cannot fire.

TransformerLens computes attention in four ways, and each is taken where it splits off:

- GPT-2 and GPT-NeoX bridges compute it themselves from split queries, keys and values, in
  `_reconstruct_attention`;
- bridges with rotary embeddings (Llama, Qwen2, …) compute it in one function from the hidden state
  on, so for the pass they hand over to the module that they wrap, which looks its attention up in
  transformers' registry;
- plain bridges (OPT) hand over to that module anyway; GPT-Neo's has a method `_attn` of its own;
- `HookedTransformer` computes it in `forward`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mi_toolkit.core.errors import UnsupportedModelError
from mi_toolkit.core.model import HookedModel, method_replaced
from mi_toolkit.heads.block_figures import PatternBlock

CACHED = 9 * 2**17
"""Entries of a block for one core: more would wait for memory, fewer for Python between them."""

MOST_QUERIES = 128
"""Queries to a block at most: under causal attention, larger ones compute more that is masked."""

FEWEST_QUERIES = 48
"""Queries to a block at least: smaller ones spend their time between the products."""

LEAST_SHARE = 1e-30
"""Below, a float32 begins to lose digits."""

HIDDEN = -1e30
"""The score of a key that is not seen: finite, so that its share times its score is 0, not NaN."""


@dataclass(frozen=True, kw_only=True)
class BlockShape:
    """How a layer's attention is cut."""

    queries: int
    kv_heads: int
    sequences: int


def block_shape(n_sequences: int, n_kv_heads: int, group: int, n: int, threads: int) -> BlockShape:
    """The largest block that stays in the caches of `threads` cores."""
    entries = CACHED * threads
    queries = min(n, MOST_QUERIES, max(FEWEST_QUERIES, entries // (n_kv_heads * group * n)))
    kv_heads = max(1, min(n_kv_heads, entries // (group * queries * n)))
    sequences = 1
    if kv_heads == n_kv_heads:
        sequences = max(1, min(n_sequences, entries // (n_kv_heads * group * queries * n)))
    return BlockShape(queries=queries, kv_heads=kv_heads, sequences=sequences)


def attend(
    query: Float[Tensor, "sequence head position d_head"],
    key: Float[Tensor, "sequence kv_head position d_head"],
    value: Float[Tensor, "sequence kv_head position d_head"],
    *,
    scale: float,
    window: int | None,
    show: Callable[[PatternBlock], None],
    with_entropy: bool,
) -> Float[Tensor, "sequence position head d_head"]:
    """Causal attention; `show` gets every block of patterns, sequence by sequence within a block.

    Query heads share key and value heads in order: head `h` reads `h // (head / kv_head)`.
    """
    n_sequences, n_heads, n, d_head = query.shape
    n_kv_heads = key.shape[1]
    group = n_heads // n_kv_heads
    grouped = query.float().unflatten(1, (n_kv_heads, group)) * scale
    # Products with keys that lie side by side take four fifths of the time.
    keys, values = key.float().transpose(-1, -2).contiguous(), value.float().contiguous()
    out = torch.empty(n_sequences, n, n_heads, d_head, dtype=value.dtype, device=value.device)
    shape = block_shape(n_sequences, n_kv_heads, group, n, torch.get_num_threads())
    # Asking the system for new memory at each block would take as long as the products.
    most = shape.sequences * shape.kv_heads * group * shape.queries * n
    buffers = query.new_empty(2, most, dtype=torch.float32)
    ahead = buffers.new_full((shape.queries, shape.queries), HIDDEN).triu_(1)
    for queries, heads, sequences in _blocks(shape, n_sequences, n_kv_heads, n):
        first_key = 0 if window is None else max(0, queries.start - window + 1)
        seen = slice(first_key, queries.stop)
        rows = grouped[sequences, heads, :, queries]
        rows, seen_keys = rows.flatten(2, 3), keys[sequences, heads, :, seen]
        cut = (*rows.shape[:-1], seen_keys.shape[-1])
        entries = math.prod(cut)
        scores, patterns = (buffer[:entries].view(cut) for buffer in buffers)
        torch.matmul(rows, seen_keys, out=scores)
        head = slice(heads.start * group, heads.stop * group)
        by_head = (len(rows), head.stop - head.start, queries.stop - queries.start, -1)
        scores_by_head, patterns_by_head = scores.view(by_head), patterns.view(by_head)
        _hide(scores_by_head, ahead, queries.start, first_key, window)
        torch.softmax(scores, dim=-1, out=patterns)
        z = (patterns @ values[sequences, heads, seen]).view(by_head)
        out[sequences, queries, head] = z.transpose(1, 2).to(out.dtype)
        show(
            PatternBlock(
                patterns=patterns_by_head,
                first_sequence=sequences.start,
                first_head=head.start,
                first_query=queries.start,
                first_key=first_key,
                sums_to_one=True,
                entropy=_entropy(scores_by_head, patterns_by_head) if with_entropy else None,
            )
        )
    return out


def _entropy(
    scores: Float[Tensor, "sequence head query key"],
    patterns: Float[Tensor, "sequence head query key"],
) -> Float[Tensor, "sequence head query"]:
    """Of each row, in nats; `scores` are used up."""
    offset = scores.shape[-1] - scores.shape[-2]
    # Any key gives `log Σ exp s`, its score less the log of its share, if that holds its digits.
    share, score = patterns.diagonal(offset, -2, -1), scores.diagonal(offset, -2, -1)
    if not share.min() > LEAST_SHARE:
        share, score = patterns.amax(dim=-1), scores.amax(dim=-1)
    log_total = score - share.log()
    return log_total - scores.mul_(patterns).sum(dim=-1)


def blocks_of(
    patterns: Float[Tensor, "sequence head query key"], *, looks_ahead: bool = False
) -> Iterator[PatternBlock]:
    """Whole patterns in the same blocks, in float32; under causal masks without what is hidden."""
    n_sequences, n_heads, n, _ = patterns.shape
    shape = block_shape(n_sequences, n_heads, 1, n, torch.get_num_threads())
    for queries, heads, sequences in _blocks(shape, n_sequences, n_heads, n):
        block = patterns[sequences, heads, queries, : n if looks_ahead else queries.stop]
        yield PatternBlock(
            patterns=block.to(torch.float32, memory_format=torch.contiguous_format),
            first_sequence=sequences.start,
            first_head=heads.start,
            first_query=queries.start,
            first_key=0,
        )


def _blocks(
    shape: BlockShape, n_sequences: int, n_kv_heads: int, n: int
) -> Iterator[tuple[slice, slice, slice]]:
    for query in range(0, n, shape.queries):
        for head in range(0, n_kv_heads, shape.kv_heads):
            for sequence in range(0, n_sequences, shape.sequences):
                yield (
                    slice(query, min(query + shape.queries, n)),
                    slice(head, min(head + shape.kv_heads, n_kv_heads)),
                    slice(sequence, min(sequence + shape.sequences, n_sequences)),
                )


def _hide(
    scores: Float[Tensor, "sequence head query key"],
    ahead: Float[Tensor, "most_queries most_queries"],
    first_query: int,
    first_key: int,
    window: int | None,
) -> None:
    """Hide the keys after each query, and those before its window."""
    n_queries, n_keys = scores.shape[-2:]
    scores[..., n_keys - n_queries :] += ahead[:n_queries, :n_queries]
    if window is not None:
        query = torch.arange(first_query, first_query + n_queries, device=scores.device)
        key = torch.arange(first_key, first_key + n_keys, device=scores.device)
        scores.masked_fill_(key <= query[:, None] - window, HIDDEN)


Attention = Callable[[int, Tensor, Tensor, Tensor, float], Tensor]
"""`(layer, query, key, value, scale)`, each `["sequence head position d_head"]`, keys and values
per key-value head, to heads' outputs `["sequence position head d_head"]`; causal, under the layer's
window."""

_NAME = "mi_toolkit"
_FIRES_ANYWAY = {"hook_in", "hook_out", "hook_q", "hook_k", "hook_v", "hook_z"}
_BRANCHES = ("use_attn_result", "use_split_qkv_input", "use_attn_in")
_SCORE_EDITS = ("sinks", "attn_logit_softcapping", "softcap")

_attending: dict[int, tuple[int, Attention]] = {}
"""By the id of a module that asks: its layer and who computes its attention now."""


def unsupported_reason(model: HookedModel, layers: Sequence[int]) -> str | None:
    """Why the attention of some layer cannot be computed by another; None where it can."""
    for layer in layers:
        component = model.blocks[layer].attn  # type: ignore[attr-defined]
        kind = type(component).__name__
        if kind not in _WAYS:
            return f"the attention of layer {layer} is a {kind}"
        hooked = [
            name
            for name, module in component.named_children()
            if name not in _FIRES_ANYWAY and hasattr(module, "has_hooks") and module.has_hooks()
        ]
        if hooked:
            return f"{hooked[0]} of layer {layer} has a hook, which needs whole patterns"
        configs = (model.cfg, getattr(component, "config", None))
        branches = [name for name in _BRANCHES for cfg in configs if getattr(cfg, name, False)]
        if branches or getattr(component, "compatibility_mode", False):
            return f"layer {layer} runs with {branches[0] if branches else 'compatibility mode'}"
        reason = _OBSTACLES[_WAYS[kind]](component)
        if reason is not None:
            return f"{reason} in layer {layer}"
    return None


@contextmanager
def attention_by(model: HookedModel, layers: Sequence[int], attention: Attention) -> Iterator[None]:
    """Inside, `attention` computes the attention of the given layers; after it, the model does.

    All layers that run are to be given: some models look the attention of each up in one place.

    Raises:
        UnsupportedModelError: there is an obstacle.
    """
    reason = unsupported_reason(model, layers)
    if reason is not None:
        raise UnsupportedModelError(
            f"Attention of {model.cfg.model_name} cannot be computed in blocks: {reason}. Shorter "
            "prompts, whose patterns fit, are measured on whole patterns."
        )
    with ExitStack() as stack:
        for layer in layers:
            component = model.blocks[layer].attn  # type: ignore[attr-defined]
            stack.enter_context(_WAYS[type(component).__name__](component, layer, attention))
        if hasattr(model, "original_model"):
            stack.enter_context(_registered(model.original_model.config))
        yield


@contextmanager
def _registered(config: Any) -> Iterator[None]:
    """Models with this config look their attention up under our name, and build no mask."""
    ALL_ATTENTION_FUNCTIONS.register(_NAME, _looked_up)
    ALL_MASK_ATTENTION_FUNCTIONS.register(_NAME, lambda *_, **__: None)
    before = config._attn_implementation
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def _looked_up(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in place of its own attention function."""
    edits = [name for name in ("softcap", "s_aux") if kwargs.get(name) is not None]
    if attention_mask is not None or edits:
        raise UnsupportedModelError(
            f"{type(module).__name__} asks for {edits[0] if edits else 'a mask of its own'}, which "
            "attention in blocks does not know. Shorter prompts are measured on whole patterns."
        )
    layer, attention = _attending[id(module)]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return attention(layer, query, key, value, scale), None


@contextmanager
def _in_reconstruction(component: Any, layer: int, attention: Attention) -> Iterator[None]:
    def reconstruct(q: Tensor, k: Tensor, v: Tensor, **kwargs: Any) -> tuple[Tensor, None]:
        cfg = component.config
        n_kv_heads = getattr(cfg, "n_key_value_heads", None) or cfg.n_heads
        query, key, value, *_, d_head = component._reshape_qkv_to_heads(
            q, k, v, cfg.n_heads, n_kv_heads
        )
        rotation = kwargs.get("position_embeddings")
        if isinstance(rotation, tuple) and hasattr(component, "_apply_rotary_pos_emb"):
            cos, sin = component._apply_position_embedding_hooks(rotation)
            query, key = component._apply_rotary_pos_emb(query, key, cos, sin)
        scale = d_head**-0.5
        if getattr(cfg, "scale_attn_by_inverse_layer_idx", False):
            scale /= layer + 1
        z = attention(layer, query, key, value, scale)
        return component._apply_output_projection(z.flatten(start_dim=2)), None

    with method_replaced(component, "_reconstruct_attention", reconstruct):
        yield


@contextmanager
def _in_wrapped(component: Any, layer: int, attention: Attention) -> Iterator[None]:
    wrapped = component.original_component

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Any = None) -> tuple[Tensor, None]:
        return attention(layer, query, key, value, 1.0).transpose(1, 2), None

    with ExitStack() as stack:
        if hasattr(wrapped, "_attn"):  # GPT-Neo, which does not scale
            stack.enter_context(method_replaced(wrapped, "_attn", attend))
        # The forward of the plain bridge hands over to the module that it wraps.
        plain = next(c for c in type(component).__mro__ if c.__name__ == "AttentionBridge")
        forward = MethodType(vars(plain)["forward"], component)
        stack.enter_context(method_replaced(component, "forward", forward))
        for module in wrapped.modules():  # BERT's attention asks the registry from a part of it
            _attending[id(module)] = (layer, attention)
            stack.callback(_attending.pop, id(module))
        yield


@contextmanager
def _in_hooked(component: Any, layer: int, attention: Attention) -> Iterator[None]:
    def forward(
        query_input: Tensor,
        key_input: Tensor,
        value_input: Tensor,
        *_: Any,
        attention_mask: Tensor | None = None,
        **__: Any,
    ) -> Tensor:
        q, k, v = component.calculate_qkv_matrices(query_input, key_input, value_input)
        if component.cfg.positional_embedding_type == "rotary":
            q = component.hook_rot_q(component.apply_rotary(q, 0, attention_mask))
            k = component.hook_rot_k(component.apply_rotary(k, 0, attention_mask))
        query, key, value = (each.transpose(1, 2) for each in (q, k, v))
        z = component.hook_z(attention(layer, query, key, value, 1 / float(component.attn_scale)))
        weight = component.W_O.flatten(end_dim=1).T
        return functional.linear(z.flatten(start_dim=2).to(weight.dtype), weight, component.b_O)

    with method_replaced(component, "forward", forward):
        yield


_WAYS: Mapping[str, Callable[[Any, int, Attention], Any]] = {
    "JointQKVAttentionBridge": _in_reconstruction,
    "JointQKVPositionEmbeddingsAttentionBridge": _in_reconstruction,
    "PositionEmbeddingsAttentionBridge": _in_wrapped,
    "AttentionBridge": _in_wrapped,
    "Attention": _in_hooked,
    "GroupedQueryAttention": _in_hooked,
}
"""By the class of a layer's attention, where it is taken. Subclasses may compute something else, so
their names are not here."""


def _reconstruction_obstacle(component: Any) -> str | None:
    if hasattr(component, "_reconstruct_attention"):
        return None
    return f"{type(component).__name__} has no _reconstruct_attention"


def _wrapped_obstacle(component: Any) -> str | None:
    wrapped = component.original_component
    for name in _SCORE_EDITS:
        if getattr(wrapped, name, None) is not None:
            return f"{type(wrapped).__name__} has {name}"
    if hasattr(wrapped, "_attn"):
        return None if type(wrapped).__name__ == "GPTNeoSelfAttention" else "an unknown _attn is"
    if not hasattr(sys.modules[type(wrapped).__module__], "ALL_ATTENTION_FUNCTIONS"):
        return f"{type(wrapped).__name__} does not ask transformers' registry for its attention"
    return None


def _hooked_obstacle(component: Any) -> str | None:
    cfg = component.cfg
    if cfg.positional_embedding_type in ("alibi", "relative_positional_bias"):
        return f"{cfg.positional_embedding_type} is added to scores"
    named = ("clip_qkv", "use_logn_attn", "use_attention_sinks", "load_in_4bit")
    used = [name for name in named if getattr(cfg, name, None)]
    if getattr(cfg, "attn_scores_soft_cap", -1) > 0:
        used.append("attn_scores_soft_cap")
    if (cfg.original_architecture or "").startswith("Olmo"):
        used.append("a norm of queries and keys")
    return f"{used[0]} is used" if used else None


_OBSTACLES: Mapping[Callable[[Any, int, Attention], Any], Callable[[Any], str | None]] = {
    _in_reconstruction: _reconstruction_obstacle,
    _in_wrapped: _wrapped_obstacle,
    _in_hooked: _hooked_obstacle,
}
