"""One hooked pass: the named activations are shown to a visitor as they appear, then dropped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from mi_toolkit.errors import HookError
from mi_toolkit.hooked_model import HookedModel, HookFunction, evaluating

Visitor = Callable[[str, Tensor], None]
"""`(name, activation)`; the activation belongs to the pass: copy what is to outlive the call."""


class _LastOneSeen(Exception):
    """Leaves a forward pass that has nothing more to show."""


def visit_activations(
    model: HookedModel,
    ids: Int[Tensor, "sequence position"],
    names: Sequence[str],
    visit: Visitor,
) -> None:
    """Run `ids` and show `visit` each named activation, in the order in which they appear.

    The pass stops behind the last of them: no later layer and no unembedding is computed. Nothing
    is masked, so `ids` are padded on the right, if at all. The model's mode comes back as it was.

    Raises:
        HookError: a hook did not fire.
    """
    waiting = set(names)

    def showing(name: str) -> HookFunction:
        # On a bridge a hook may fire under another name than the one it was asked by.
        def show(activation: Tensor, hook: Any) -> None:
            waiting.discard(name)
            visit(name, activation.detach())
            if not waiting:
                raise _LastOneSeen

        return show

    ids = ids.to(model.cfg.device)
    hooks = [(name, showing(name)) for name in dict.fromkeys(names)]
    stopping = suppress(_LastOneSeen)
    with evaluating(model), torch.no_grad(), model.hooks(fwd_hooks=hooks), stopping:
        model(ids, return_type=None, attention_mask=torch.ones_like(ids))
    if waiting:
        raise HookError(_did_not_fire(min(waiting), model))


def _did_not_fire(name: str, model: HookedModel) -> str:
    message = f"{name} of {model.cfg.model_name} did not fire"
    if name.endswith(("hook_pattern", "hook_attn_scores")):
        message += (
            ", so the layer's attention is unknown. Load the model with "
            "attn_implementation='eager': fused attention does not give its pattern"
        )
    return f"{message}."
