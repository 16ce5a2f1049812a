"""One hooked pass: the named activations are shown to a visitor as they appear, then dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.errors import HookError
from mi_toolkit.hooked_model import (
    HookedModel,
    HookFunction,
    evaluating,
    method_replaced,
    uncached,
)

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
            visit(name, activation.detach())
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
            visit(name, activation.detach())

        return show

    hooks = {name: showing(name) for name in names}
    logits: Tensor = _run(model, ids, hooks, return_type="logits")
    if waiting:
        raise HookError(_did_not_fire(min(waiting), model))
    return logits


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


@contextmanager
def keeping_block_outputs(model: HookedModel, layers: Sequence[int]) -> Iterator[dict[int, Any]]:
    """Inside, a pass leaves what each of these blocks returns, by its layer, as it returned it."""
    blocks: Any = model.blocks  # type: ignore[attr-defined]
    kept: dict[int, Any] = {}

    def keeping(layer: int) -> Callable[..., None]:
        def keep(block: Any, arguments: Any, returned: Any) -> None:
            kept[layer] = returned

        return keep

    with ExitStack() as hooks:
        for layer in layers:
            hooks.callback(blocks[layer].register_forward_hook(keeping(layer)).remove)
        yield kept


@contextmanager
def starting_at_block(model: HookedModel, layer: int, returned: Any) -> Iterator[None]:
    """Inside, no block before `layer` is computed: a pass goes on from what the last one returned.

    Args:
        model: the model, whose blocks before `layer` have not changed.
        layer: the first block to compute; as many as there are blocks for the last norm alone.
        returned: of block `layer - 1`, from a pass over the same ids.
    """
    blocks: Any = model.blocks  # type: ignore[attr-defined]
    with ExitStack() as stack:
        for block in blocks[:layer]:
            stack.enter_context(method_replaced(block, "forward", lambda *_, **__: returned))
        yield


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
