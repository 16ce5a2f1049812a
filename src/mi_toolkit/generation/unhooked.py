"""Parts of a bridge that nobody hooks, run as Hugging Face wrote them: they take less time so.

A bridge computes attention step by step and asks hook points at every step, whether or not
somebody listens. For a token at a time that takes longer than the arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mi_toolkit.hooked_model import HookedModel


@contextmanager
def unhooked_parts_plain(model: HookedModel) -> Iterator[None]:
    """Inside, modules without a hook anywhere in them run the code of the module that they wrap.

    A module that holds a hooked one stays as it is: what it computes may differ in its steps.
    """
    plain = [] if getattr(model, "compatibility_mode", False) else _plain(model)
    for module, wrapped in plain:
        vars(module)["forward"] = wrapped.forward
    try:
        yield
    finally:
        for module, _ in plain:
            del vars(module)["forward"]


def _plain(model: HookedModel) -> list[tuple[Any, Any]]:
    """The modules of the layers that nobody hooks, each with the module that it wraps."""
    found: list[tuple[Any, Any]] = []
    known: dict[int, bool] = {}
    blocks: Any = getattr(model, "blocks", ())
    for block in blocks:
        _gather(block, found, known)
    return found


def _gather(module: Any, found: list[tuple[Any, Any]], known: dict[int, bool]) -> bool:
    """Whether a hook is in the module or in any part of it; those without are put down."""
    if id(module) not in known:
        known[id(module)] = bool(getattr(module, "fwd_hooks", None))
        for part in module.children():
            known[id(module)] |= _gather(part, found, known)
        wrapped = getattr(module, "original_component", None)
        if wrapped is not None and not known[id(module)] and "forward" not in vars(module):
            found.append((module, wrapped))
    return known[id(module)]
