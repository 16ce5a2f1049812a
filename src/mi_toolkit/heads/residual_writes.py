"""What each part of a block adds to the residual stream, and the proof that nothing else does.

1. A block's output less its input is `a · N(Σ_h z_h W_O + b_O) + m · MLP`: `N` is the norm behind
   attention, where there is one, with its scale frozen; `a` and `m` are multipliers of the model
   (Granite's `residual_multiplier`) and what the frozen scales divide by.
2. `a` and `m` are found at the position that is asked about, by weighted least squares, not read
   off a config: whatever scales a write is in them, whatever it is called.
3. Where no two numbers make the sum, something else writes (a state-space mixer, a second MLP), or
   the stream itself is changed (a norm of the sum): that is refused, with the layer.

All that attributes by parts rests on this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.errors import UnsupportedModelError
from mi_toolkit.heads.direct_effect import frozen_norm, output_weights
from mi_toolkit.hooked_model import HookedModel, attention_layers, z_hook
from mi_toolkit.hooked_pass import logits_and_activations

_FLOOR: Mapping[torch.dtype, float] = MappingProxyType(
    {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
)
"""How far rounding may part a block's change from its parts, as a share of their size."""

_SAME = 1e-2
"""The share of the floor under which two fits are the same."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockWrites:
    """What one block adds to the residual stream at one position; together its whole change."""

    heads: Float[Tensor, "head d_model"]
    """Each head; zeros in a layer without attention."""

    attention_bias: Float[Tensor, " d_model"]
    """Attention's output bias."""

    mlp: Float[Tensor, " d_model"]
    """The MLP, biases and all; zeros where there is none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ResidualWrites:
    """The residual stream at the last position as a sum of writes, and what is read from it."""

    embedding: Float[Tensor, " d_model"]
    """What enters the first block."""

    blocks: tuple[BlockWrites, ...]
    """First to last."""

    final: Float[Tensor, " d_model"]
    """The stream behind the last block: the embedding and all writes, to rounding."""

    logits: Float[Tensor, " vocabulary"]
    """The model's own."""


def residual_writes(model: HookedModel, ids: Int[Tensor, " position"]) -> ResidualWrites:
    """One pass, taken apart at its last position; all in float32 on the CPU.

    Raises:
        UnsupportedModelError: a block's change is no sum of what its heads and its MLP write.
        HookError: a part's hook did not fire.
    """
    layers, n_layers = set(attention_layers(model)), int(model.cfg.n_layers)
    named = model.hook_dict
    # An attention-only HookedTransformer has the hook, which never fires.
    with_mlp = range(0 if getattr(model.cfg, "attn_only", False) else n_layers)
    has_mlp = {layer for layer in with_mlp if _mlp_hook(layer) in named}
    names: list[str] = []
    for layer in range(n_layers):
        names.append(f"blocks.{layer}.hook_resid_pre")
        names += [z_hook(layer)] if layer in layers else []
        names += [_mlp_hook(layer)] if layer in has_mlp else []
        names.append(f"blocks.{layer}.hook_resid_post")
    seen: dict[str, Tensor] = {}
    dtypes: set[torch.dtype] = set()

    def keep(name: str, activation: Tensor) -> None:
        # One sequence: its last position is the last row, with or without a batch axis.
        trailing = activation.shape[-2:] if name.endswith("hook_z") else activation.shape[-1:]
        seen[name] = activation.reshape(-1, *trailing)[-1].float().cpu()
        dtypes.add(activation.dtype)

    logits = logits_and_activations(model, ids[None], names, keep)[0, -1].float().cpu()
    rounding = max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)
    blocks = []
    for layer in range(n_layers):
        before, after = (seen[f"blocks.{layer}.hook_resid_{end}"] for end in ("pre", "post"))
        parts = BlockWrites(
            heads=before.new_zeros(int(model.cfg.n_heads), len(before)),
            attention_bias=torch.zeros_like(before),
            mlp=seen[_mlp_hook(layer)] if layer in has_mlp else torch.zeros_like(before),
        )
        if layer in layers:
            parts = replace(parts, **_attention(model, layer, seen[z_hook(layer)]))
        scaled = _scaled(parts, before, after, rounding)
        if scaled is None:
            raise UnsupportedModelError(
                f"In layer {layer} of {model.cfg.model_name} something writes into the residual "
                "stream that is neither a head nor the MLP, or a norm is taken of the stream "
                "itself: what its parts write does not add up to the block's change."
            )
        blocks.append(scaled)
    return ResidualWrites(
        embedding=seen["blocks.0.hook_resid_pre"],
        blocks=tuple(blocks),
        final=seen[f"blocks.{n_layers - 1}.hook_resid_post"],
        logits=logits,
    )


def _mlp_hook(layer: int) -> str:
    return f"blocks.{layer}.hook_mlp_out"


def _attention(
    model: HookedModel, layer: int, z: Float[Tensor, "head d_head"]
) -> dict[str, Tensor]:
    """What each head and the bias write, up to the scale of a norm behind them."""
    weights = output_weights(model, layer)
    heads = einsum(z.to(weights), weights, "head d, head d m -> head m")
    block: Any = model.blocks[layer]  # type: ignore[attr-defined]
    bias: Tensor | None = getattr(block.attn, "b_O", None)
    bias = torch.zeros_like(heads[0]) if bias is None else bias.detach().to(heads)
    if hasattr(block, "ln1_post"):
        # In the model's dtype and where the block is.
        example = heads[0].to(model.W_E.dtype)  # type: ignore[attr-defined]
        bias = frozen_norm(block.ln1_post, example)(bias)
    return {"heads": heads.cpu(), "attention_bias": bias.cpu()}


def _scaled(
    parts: BlockWrites, before: Tensor, after: Tensor, dtype: torch.dtype
) -> BlockWrites | None:
    """The parts with the two numbers that make the block's change of them; None where none do."""
    attention = parts.heads.sum(dim=0) + parts.attention_bias
    sides = torch.stack([attention, parts.mlp], dim=-1).double()
    change = after.double() - before.double()
    # What rounding does to each coordinate: in the stream, and in the sums inside the parts.
    size = torch.stack([*sides.T, change]).square().mean(dim=-1).sqrt().max()
    in_stream = 4 * torch.finfo(dtype).eps * (before.abs() + after.abs()).double()
    weight = 1 / (in_stream + _FLOOR[dtype] * size).clamp_min(torch.finfo(torch.float32).tiny)
    weighted = sides * weight[:, None]
    found = torch.linalg.lstsq(weighted, (change * weight)[:, None]).solution[:, 0]

    def off(scales: Tensor) -> float:
        return float((weighted @ scales - change * weight).abs().max())

    ones = torch.ones_like(found)
    # Two parts that point the same way leave the fit open: then it is as the hooks show them.
    scales = ones if off(ones) <= max(2 * off(found), _SAME) else found
    if not off(scales) <= 1:
        return None
    of_attention, of_mlp = scales.tolist()
    return BlockWrites(
        heads=of_attention * parts.heads,
        attention_bias=of_attention * parts.attention_bias,
        mlp=of_mlp * parts.mlp,
    )
