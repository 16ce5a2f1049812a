"""Attention patterns out of a hooked pass, one layer's at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.core.model import HookedModel, pattern_hook
from mi_toolkit.core.passes import visit_activations

Visitor = Callable[[int, Tensor], None]
"""`(layer, patterns ["sequence head query key"])`; the patterns are gone after the call."""


def visit_patterns(
    model: HookedModel,
    ids: Int[Tensor, "sequence position"],
    layers: Sequence[int],
    visit: Visitor,
) -> None:
    """Run `ids` and show `visit` the pattern of each of `layers`, first to last.

    Raises:
        HookError: a layer's hook did not fire.
    """
    layer_of = {pattern_hook(layer): layer for layer in layers}
    visit_activations(
        model, ids, list(layer_of), lambda name, patterns: visit(layer_of[name], patterns)
    )


def patterns_of(
    model: HookedModel, ids: Int[Tensor, "sequence position"], layers: Sequence[int]
) -> dict[int, Float[Tensor, "sequence head query key"]]:
    """The patterns of the given layers, on the CPU in float32, by layer."""
    kept: dict[int, Tensor] = {}

    def keep(layer: int, patterns: Tensor) -> None:
        kept[layer] = patterns.to(device="cpu", dtype=torch.float32, copy=True)

    visit_patterns(model, ids, sorted(set(layers)), keep)
    return kept
