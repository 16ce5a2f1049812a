"""One hooked pass: the named activations are shown to a visitor as they appear, then dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.errors import HookError
from mi_toolkit.hooked_model import HookedModel, HookFunction, by_head, evaluating, uncached

Visitor = Callable[[str, Tensor], None]
"""`(name, activation)`; the activation belongs to the pass: copy what is to outlive the call."""

_positions_before: ContextVar[int | None] = ContextVar("_positions_before", default=None)


@contextmanager
def continuing() -> Iterator[Callable[[int], None]]:
    """Inside, text is generated; what is given sets how many positions a cache holds by now."""

    def hold(positions: int) -> None:
        _positions_before.set(positions)

    token = _positions_before.set(0)
    try:
        yield hold
    finally:
        _positions_before.reset(token)


def positions_before() -> int | None:
    """The positions before the first that a hook sees; None unless text is being generated.

    With a cache of keys and values a hook sees the prompt once, and then one position at a time.
    """
    return _positions_before.get()


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
            visit(name, _as_shown(model, name, activation.detach()))
            if not waiting:
                raise _LastOneSeen

        return show

    with suppress(_LastOneSeen):
        _run(model, ids, {name: showing(name) for name in names})
    if waiting:
        raise HookError(_did_not_fire(min(waiting), model))


def logits_and_activations(
    model: HookedModel,
    ids: Int[Tensor, "sequence position"],
    names: Sequence[str],
    visit: Visitor,
) -> Float[Tensor, "sequence position vocabulary"]:
    """As `visit_activations`, but to the end: the model's logits.

    Raises:
        HookError: a hook did not fire.
    """
    waiting = set(names)

    def showing(name: str) -> HookFunction:
        def show(activation: Tensor, hook: Any) -> None:
            waiting.discard(name)
            visit(name, _as_shown(model, name, activation.detach()))

        return show

    hooks = {name: showing(name) for name in names}
    logits: Tensor = _run(model, ids, hooks, return_type="logits")
    if waiting:
        raise HookError(_did_not_fire(min(waiting), model))
    return logits


def _as_shown(model: HookedModel, name: str, activation: Tensor) -> Tensor:
    is_z = name.endswith(".attn.hook_z") and activation.ndim == 4
    return by_head(activation, int(model.cfg.n_heads)) if is_z else activation


def activations_that_fire(
    model: HookedModel, ids: Int[Tensor, "sequence position"], names: Sequence[str]
) -> dict[str, Tensor]:
    """Each named activation, of those that fire and are one tensor of floats."""
    fired: dict[str, Tensor] = {}

    def noting(name: str) -> HookFunction:
        def note(activation: Any, hook: Any) -> None:
            if isinstance(activation, Tensor) and activation.is_floating_point():
                fired[name] = activation.detach().clone()

        return note

    _run(model, ids, {name: noting(name) for name in names})
    return fired


def _run(
    model: HookedModel,
    ids: Int[Tensor, "sequence position"],
    hooks: Mapping[str, HookFunction],
    return_type: str | None = None,
) -> Any:
    ids = ids.to(model.cfg.device)
    with evaluating(model), torch.no_grad(), model.hooks(fwd_hooks=list(hooks.items())):
        return model(
            ids, return_type=return_type, attention_mask=torch.ones_like(ids), **uncached(model)
        )


def _did_not_fire(name: str, model: HookedModel) -> str:
    message = f"{name} of {model.cfg.model_name} did not fire"
    if name.endswith(("hook_pattern", "hook_attn_scores")):
        message += (
            ", so the layer's attention is unknown. Load the model with "
            "attn_implementation='eager': fused attention does not give its pattern"
        )
    return f"{message}."
