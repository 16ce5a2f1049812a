"""For the time of a pass, a function of ours computes a model's attention.

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

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import MethodType
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from mi_toolkit.core.errors import UnsupportedModelError
from mi_toolkit.core.model import HookedModel, method_replaced

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
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

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
