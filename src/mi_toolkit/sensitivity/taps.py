"""The input of a matrix, shown as the model runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mi_toolkit.effective_weights import ONLY_WATCHES
from mi_toolkit.sensitivity.coordinates import Tap


def watch_input(tap: Tap, name: str, width: int, seen: Callable[[str, int, Tensor], None]) -> Any:
    """Show `seen` the input of a matrix, under its name; gives the handle that ends it."""
    if tap.argument is None:

        def after(_: Any, __: Any, output: Tensor) -> None:
            seen(name, width, output)

        setattr(after, ONLY_WATCHES, True)
        return tap.module.register_forward_hook(after)

    def before(_: Any, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        if tap.expert is not None:
            given = (*positional, *named.values())
            seen(name, width, _of_expert(given, tap.expert, tap.n_experts))
            return
        argument = tap.argument
        seen(name, width, named[argument] if isinstance(argument, str) else positional[0])

    setattr(before, ONLY_WATCHES, True)
    return tap.module.register_forward_pre_hook(before, with_kwargs=True)


def _of_expert(arguments: tuple[Any, ...], expert: int, n_experts: int) -> Tensor:
    """What one expert of a stack sees, with zeros for the tokens that it does not.

    The stack is called with all tokens and the experts chosen for each, or (Llama 4) with every
    expert's tokens one after another, zeros where they are not its own.
    """
    tokens, *rest = (each for each in arguments if isinstance(each, Tensor))
    flat = tokens.reshape(-1, tokens.shape[-1])
    chosen = [each for each in rest if not each.is_floating_point()]
    if chosen:
        takes_part = chosen[0].reshape(len(flat), -1).eq(expert).any(dim=-1)
        return torch.where(takes_part[:, None], flat, 0)
    return flat.view(n_experts, -1, flat.shape[-1])[expert]
