"""Which heads to show: by name, by layer, or by number within layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mi_toolkit.errors import UnknownNameError
from mi_toolkit.heads.head import Head

HeadName = Head | tuple[int, int] | str | int
"""A head by name, or by its number within the layers that are shown."""


@dataclass(frozen=True, kw_only=True)
class HeadGrid:
    """The heads that there are to show."""

    owner: str
    """What has them, for messages."""

    layers: Sequence[int]
    """The layers that have a pattern."""

    n_layers: int
    """All layers."""

    n_heads: int
    """Query heads of each layer."""


def chosen_heads(
    grid: HeadGrid,
    layer: int | Sequence[int] | None,
    heads: Sequence[HeadName] | HeadName | None,
) -> tuple[Head, ...]:
    """The heads that `layer` and `heads` name, each once.

    Raises:
        UnknownNameError: there is no such layer or head.
    """
    layers = None if layer is None else [layer] if isinstance(layer, int) else list(layer)
    for number in layers or []:
        _check_layer(grid, number)
    if heads is None:
        if not layers:
            raise UnknownNameError(
                f"Say which heads of {grid.owner} to show: layer=0, layer=[0, 1] or heads=['L0H1']."
            )
        return tuple(Head(l, h) for l in layers for h in range(grid.n_heads))
    chosen: dict[Head, None] = {}
    for name in _names(heads):
        chosen |= dict.fromkeys(_heads_called(grid, name, layers))
    if not chosen:
        raise UnknownNameError("The list of heads is empty: name at least one, or leave it out.")
    return tuple(chosen)


def _names(heads: Sequence[HeadName] | HeadName) -> list[HeadName]:
    """The heads one by one: `(5, 1)` is one head, and so is a `Head`; `[5, 1]` is two."""
    if isinstance(heads, int | str):
        return [heads]
    names = list(heads)
    numbers = [name for name in names if isinstance(name, int)]
    return (
        [Head(*numbers)] if isinstance(heads, tuple) and len(numbers) == len(names) == 2 else names
    )


def _heads_called(grid: HeadGrid, name: HeadName, layers: list[int] | None) -> list[Head]:
    if isinstance(name, int) or (isinstance(name, str) and name.strip().isdecimal()):
        if layers is None:
            raise UnknownNameError(
                f"Head {name} of which layer? Give layer=…, or the head's whole name: 'L0H{name}'."
            )
        found = [Head(l, int(name)) for l in layers]
    else:
        found = [Head.of(name)]
        if layers is not None and found[0].layer not in layers:
            shown = ", ".join(map(str, layers))
            raise UnknownNameError(
                f"{found[0]} is not in layer {shown}. Leave layer out: the head's name has it."
            )
    for head in found:
        _check_layer(grid, head.layer)
        if not 0 <= head.head < grid.n_heads:
            raise UnknownNameError(
                f"{grid.owner} has no head {head.head} in layer {head.layer}: its heads "
                f"are 0 to {grid.n_heads - 1}."
            )
    return found


def _check_layer(grid: HeadGrid, layer: int) -> None:
    known = list(grid.layers)
    if layer in known:
        return
    everywhere = known == list(range(grid.n_layers))
    layers = f"0 to {known[-1]}" if everywhere else ", ".join(map(str, known))
    raise UnknownNameError(
        f"{grid.owner} has no attention in layer {layer}: its layers"
        f"{'' if everywhere else ' with attention'} are {layers}."
    )
