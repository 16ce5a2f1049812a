"""One hooked pass: every layer's attention pattern is shown to a visitor, then dropped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.errors import HookError
from mi_toolkit.hooked_model import HookedModel, HookFunction, evaluating, pattern_hook

Visitor = Callable[[int, Tensor], None]
"""`(layer, patterns ["sequence head query key"])`; the patterns are gone after the call."""


class _LastPatternSeen(Exception):
    """Leaves a forward pass that has nothing more to show."""


def visit_patterns(
    model: HookedModel,
    ids: Int[Tensor, "sequence position"],
    layers: Sequence[int],
    visit: Visitor,
) -> None:
    """Run `ids` and show `visit` the pattern of each of `layers`, first to last.

    The pass stops behind the last of them: no later layer and no unembedding is computed. Nothing
    is masked, so `ids` are padded on the right, if at all. The model's mode comes back as it was.

    Raises:
        HookError: a layer's hook did not fire.
    """
    waiting = set(layers)

    def showing(layer: int) -> HookFunction:
        def show(patterns: Float[Tensor, "sequence head query key"], hook: Any) -> None:
            waiting.discard(layer)
            visit(layer, patterns.detach())
            if not waiting:
                raise _LastPatternSeen

        return show

    ids = ids.to(model.cfg.device)
    hooks = [(pattern_hook(layer), showing(layer)) for layer in layers]
    stopping = suppress(_LastPatternSeen)
    with evaluating(model), torch.no_grad(), model.hooks(fwd_hooks=hooks), stopping:
        model(ids, return_type=None, attention_mask=torch.ones_like(ids))
    if waiting:
        raise HookError(
            f"{pattern_hook(min(waiting))} of {model.cfg.model_name} did not fire, so the layer's "
            "attention is unknown. Load the model with attn_implementation='eager': fused "
            "attention does not give its pattern."
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
