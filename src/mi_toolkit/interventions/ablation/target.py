"""What is ablated: marks on one activation, for every row of a batch or row by row.

1. A head's activation is its `z`, `["batch position head d_head"]`, before `W_O` and per query
   head where keys and values are shared; a neuron's is the MLP's hidden activation,
   `["batch position d_mlp"]`, before `W_out`.
2. Whole parts are all marks of an activation, so that any set of components is one mask each.

The kinds of ablation see hook names and marks only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from mi_toolkit.heads.head import Head
from mi_toolkit.hooked_model import (
    HookedModel,
    HookFunction,
    by_head,
    neuron_count,
    neuron_hook,
    z_hook,
)
from mi_toolkit.interventions.ablation.component import Component

Hooks = list[tuple[str, HookFunction]]

Apply = Callable[[Sequence["Target"]], Hooks]
"""From targets to the hooks that replace them."""

_SHOWN = 8


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
        units = "heads" if self.hook == z_hook(self.layer) else "neurons"
        if len(marked) > _SHOWN:
            return f"{len(marked)} {units} of layer {self.layer}"
        return f"{units} {marked} of layer {self.layer}"


def targets_of(model: HookedModel, rows: Sequence[Iterable[Component | Head]]) -> list[Target]:
    """Targets for sets of components, a set to each row of the batch; one set serves every row."""
    masks: dict[tuple[int, str], Tensor] = {}

    def mask(layer: int, hook: str) -> Tensor:
        is_z = hook == z_hook(layer)
        shape = (1, int(model.cfg.n_heads), 1) if is_z else (1, neuron_count(model, layer))
        empty = torch.zeros(len(rows), *shape, dtype=torch.bool)
        return masks.setdefault((layer, hook), empty)

    for row, components in enumerate(rows):
        for component in map(Component.of, components):
            layer, index = component.layer, component.index
            which = slice(None) if index is None else index
            if component.part in ("head", "attn", "layer"):
                mask(layer, z_hook(layer))[row, :, which] = True
            if component.part in ("neuron", "mlp", "layer"):
                mask(layer, neuron_hook(layer))[row, :, which] = True
    return [
        Target(layer=layer, hook=hook, mask=marks.to(model.cfg.device))
        for (layer, hook), marks in sorted(masks.items(), key=lambda item: item[0])
    ]


def replacing(target: Target, value: Callable[[Tensor], Tensor | float]) -> HookFunction:
    """A hook that puts `value(activation)` where the target is marked; what it was given stays."""

    def replace(activation: Tensor) -> Tensor:
        if target.hook != z_hook(target.layer):
            return torch.where(target.mask, value(activation), activation)
        z = by_head(activation, target.mask.shape[2])
        return torch.where(target.mask, value(z), z).reshape(activation.shape)

    return replace
