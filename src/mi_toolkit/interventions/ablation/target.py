"""What is ablated: marks on one activation, for every row of a batch or row by row.

A head's activation is its `z`, `["batch position head d_head"]`, before `W_O` and per query head
where keys and values are shared. Whole layers, MLPs and neurons are other activations with other
marks: the kinds of ablation see hook names and marks only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from mi_toolkit.errors import UnknownNameError
from mi_toolkit.heads.head import Head
from mi_toolkit.hooked_model import HookedModel, HookFunction, attention_layers, z_hook

HeadName = Head | tuple[int, int] | str
Hooks = list[tuple[str, HookFunction]]

Apply = Callable[[Sequence["Target"]], Hooks]
"""From targets to the hooks that replace them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """Part of one activation, to be replaced."""

    layer: int
    """The layer that it belongs to."""

    hook: str
    """The activation's hook point."""

    mask: Bool[Tensor, "row position *unit"]
    """What of it is replaced; broadcast over the activation. One row serves every row alike."""

    def __str__(self) -> str:
        marked = sorted(set(self.mask.nonzero()[:, 2].tolist()))
        return f"heads {marked} of layer {self.layer}"


def checked_heads(model: HookedModel, heads: Iterable[HeadName]) -> tuple[Head, ...]:
    """The heads that the names name, each once, in order.

    Raises:
        UnknownNameError: a head that the model does not have.
    """
    if isinstance(heads, str | Head):
        heads = [heads]
    layers, n_heads = attention_layers(model), int(model.cfg.n_heads)
    found = sorted({Head.of(name) for name in heads})
    for head in found:
        if head.layer not in layers or not 0 <= head.head < n_heads:
            raise UnknownNameError(
                f"{model.cfg.model_name} has no head {head}: its layers are 0 to "
                f"{model.cfg.n_layers - 1} and its heads 0 to {n_heads - 1}."
            )
    return tuple(found)


def head_targets(model: HookedModel, rows: Sequence[Sequence[Head]]) -> list[Target]:
    """Targets for sets of heads, a set to each row of the batch; one set serves every row."""
    masks: dict[int, Tensor] = {}
    for row, heads in enumerate(rows):
        for layer, head in heads:
            empty = torch.zeros(len(rows), 1, int(model.cfg.n_heads), 1, dtype=torch.bool)
            masks.setdefault(layer, empty)[row, :, head] = True
    return [
        Target(layer=layer, hook=z_hook(layer), mask=masks[layer].to(model.cfg.device))
        for layer in sorted(masks)
    ]


def replacing(target: Target, value: Callable[[Tensor], Tensor | float]) -> HookFunction:
    """A hook that puts `value(activation)` where the target is marked; what it was given stays."""

    def replace(activation: Tensor) -> Tensor:
        return torch.where(target.mask, value(activation), activation)

    return replace
