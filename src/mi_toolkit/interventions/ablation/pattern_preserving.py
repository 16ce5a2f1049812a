"""`pattern_preserving`: zero, while every later head keeps attending where it did.

It tells what a part's output carries from what later heads attend to because of it. What attends
later than a layer's heads or MLP is the attention of the layers behind it; the layer's own keeps
its pattern too, which nothing ablated in it could change.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import einsum, repeat
from jaxtyping import Float
from torch import Tensor

from mi_toolkit.errors import HookError, PromptError
from mi_toolkit.heads.patterns import patterns_of
from mi_toolkit.hooked_model import (
    HookedModel,
    HookFunction,
    attention_layers,
    by_head,
    z_hook,
)
from mi_toolkit.hooked_pass import positions_before
from mi_toolkit.interventions.ablation.clean import running_clean
from mi_toolkit.interventions.ablation.target import Apply, Hooks, Target, replacing
from mi_toolkit.prompts.tokens import TokenBatch


def pattern_preserving(
    model: HookedModel, needed: Sequence[Target], reference: TokenBatch | None
) -> Apply:
    """Zeros, and the reference's patterns from the first ablated layer on.

    Raises:
        PromptError: there is no reference.
    """
    if reference is None:
        raise PromptError(
            "A pattern-preserving ablation keeps the patterns of a clean run: pass the ids that "
            "will run as reference=."
        )
    first = min(target.layer for target in needed)
    layers = [layer for layer in attention_layers(model) if layer >= first]
    with running_clean():
        patterns = patterns_of(model, reference.ids, layers)

    def apply(targets: Sequence[Target]) -> Hooks:
        masks = {target.hook: target.mask for target in targets}
        start = min((target.layer for target in targets), default=int(model.cfg.n_layers))
        hooks: Hooks = [
            (target.hook, replacing(target, lambda _: 0.0))
            for target in targets
            if target.hook != z_hook(target.layer)
        ]
        for layer in layers:
            if layer < start:
                continue
            # z = pattern · v. Editing the pattern itself would do nothing on some bridges, whose
            # attention is Hugging Face's own code and has used the pattern when its hook fires.
            seen: dict[str, Tensor] = {}
            frozen = _frozen(patterns[layer], seen, masks.get(z_hook(layer)), layer)
            hooks += [(f"blocks.{layer}.attn.hook_v", _keeping(seen)), (z_hook(layer), frozen)]
        return hooks

    return apply


def _keeping(seen: dict[str, Tensor]) -> HookFunction:
    def keep(v: Tensor) -> None:
        seen["v"] = v

    return keep


def _frozen(
    pattern: Tensor, seen: dict[str, Tensor], mask: Tensor | None, layer: int
) -> HookFunction:
    def freeze(z: Float[Tensor, "batch position head d_head"]) -> Tensor:
        length = (positions_before() or 0) + z.shape[1]
        if len(pattern) not in (1, len(z)) or pattern.shape[-1] != length:
            raise PromptError(
                "A pattern-preserving ablation keeps the patterns of its reference, of "
                f"{pattern.shape[0]} × {pattern.shape[-1]} tokens, but {z.shape[0]} × {length} "
                "ran: pass the ids that run as reference=. Generated text outgrows any."
            )
        if "v" not in seen:
            raise HookError(f"blocks.{layer}.attn.hook_v did not fire before {z_hook(layer)}.")
        n_heads, v = pattern.shape[1], seen.pop("v")
        if v.shape[2] > n_heads:
            v = by_head(v, n_heads)
        shared = repeat(v, "b k kv d -> b k (kv group) d", group=n_heads // v.shape[2])
        clean = pattern.to(z.device, z.dtype).expand(len(z), -1, -1, -1)
        kept = einsum(clean, shared, "b h q k, b k h d -> b q h d")
        return (kept if mask is None else torch.where(mask, 0.0, kept)).reshape(z.shape)

    return freeze
