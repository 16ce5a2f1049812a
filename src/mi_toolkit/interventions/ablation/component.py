"""Parts of a model that can be ablated, by name: `L5H1`, `L5N300`, `L5.attn`, `L5.mlp`, `L5`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mi_toolkit.errors import UnknownNameError, UnsupportedModelError
from mi_toolkit.heads.head import Head
from mi_toolkit.hooked_model import HookedModel, attention_layers, neuron_count

Part = Literal["head", "attn", "neuron", "mlp", "layer"]

_WHOLE_PARTS: Mapping[str, Part] = {"attn": "attn", "mlp": "mlp", "": "layer"}
_IN_ATTENTION = ("head", "attn", "layer")
_IN_MLP = ("neuron", "mlp", "layer")

_WHOLE = re.compile(r"[La](\d+)(?:\s*[.,]?\s*(attn|mlp))?", flags=re.IGNORECASE)
_NEURON = re.compile(r"[La]?(\d+)\s*[.,]?\s*N(\d+)", flags=re.IGNORECASE)


@dataclass(frozen=True, order=True)
class Component:
    """A head, a neuron, the whole attention or MLP of a layer, or both; counted from zero.

    All are taken before the projection into the residual stream, so they add up: `L5.attn` is
    every head of layer 5, `L5.mlp` every neuron, and `L5` the two together. What stays of a part
    is its projection's own bias.

    >>> Component.of("L5H1"), Component.of((5, 1)), Component.of("L5N300")
    (L5H1, L5H1, L5N300)
    >>> Component.of("l5.mlp"), Component.of("L5")
    (L5.mlp, L5)
    """

    layer: int
    """Its layer."""

    part: Part
    """What of the layer it is."""

    index: int | None = None
    """Which head or neuron; None for a whole part."""

    @staticmethod
    def of(name: ComponentName) -> Component:
        """The component that a name stands for.

        Raises:
            UnknownNameError: no such way of naming one.
        """
        if isinstance(name, Component):
            return name
        if isinstance(name, str):
            if neuron := _NEURON.fullmatch(name.strip()):
                return Component(int(neuron[1]), "neuron", int(neuron[2]))
            if whole := _WHOLE.fullmatch(name.strip()):
                return Component(int(whole[1]), _WHOLE_PARTS[(whole[2] or "").lower()])
        try:
            head = Head.of(name)
        except UnknownNameError:
            raise UnknownNameError(
                f"{name!r} names no part of a model. Write 'L5H1' or (5, 1) for a head, 'L5N300' "
                "for a neuron, 'L5.attn' or 'L5.mlp' for all of a layer's heads or neurons, 'L5' "
                "for both; all counted from zero."
            ) from None
        return Component(head.layer, "head", head.head)

    def __str__(self) -> str:
        if self.part == "layer":
            return f"L{self.layer}"
        if self.index is None:
            return f"L{self.layer}.{self.part}"
        return f"L{self.layer}{self.part[0].upper()}{self.index}"

    def __repr__(self) -> str:
        return str(self)


HeadName = Head | tuple[int, int] | str
ComponentName = Component | HeadName


def checked_components(
    model: HookedModel, components: ComponentName | Iterable[ComponentName]
) -> tuple[Component, ...]:
    """The components that the names name, each once, in order.

    Raises:
        UnknownNameError: one that the model does not have.
        UnsupportedModelError: one that it has, and whose activation cannot be hooked.
    """
    found = tuple(sorted({Component.of(name) for name in _several(components)}))
    for component in found:
        _check(model, component)
    if any(component.part in _IN_ATTENTION for component in found):
        _check_hooked(found, _IN_ATTENTION, attention_layers(model), "attention heads")
    if any(component.part in _IN_MLP for component in found):
        _check_hooked(found, _IN_MLP, mlp_layers(model), "neurons")
    return found


def checked_heads(model: HookedModel, heads: HeadName | Iterable[HeadName]) -> tuple[Head, ...]:
    """The heads that the names name, each once, in order.

    Raises:
        UnknownNameError: a head that the model does not have.
    """
    named = [Head.of(name) for name in _several(heads)]
    return tuple(
        Head(component.layer, int(component.index or 0))
        for component in checked_components(model, named)
    )


def mlp_layers(model: HookedModel) -> list[int]:
    """The layers whose neurons can be hooked."""
    return [layer for layer in range(model.cfg.n_layers) if neuron_count(model, layer)]


def _several(names: Any) -> list[Any]:
    """The names one by one: `(5, 1)` is one head."""
    is_pair = isinstance(names, tuple) and len(names) == 2
    is_one = isinstance(names, str | Head | Component)
    return [names] if is_one or (is_pair and all(isinstance(n, int) for n in names)) else [*names]


def _check(model: HookedModel, component: Component) -> None:
    """Check a component against the model's sizes."""
    n_layers = int(model.cfg.n_layers)
    is_layer = 0 <= component.layer < n_layers
    neurons = neuron_count(model, component.layer if is_layer else 0)
    size = {"head": int(model.cfg.n_heads), "neuron": neurons or None}.get(component.part)
    if is_layer and (size is None or (component.index is not None and 0 <= component.index < size)):
        return
    kind = "layer" if size is None else component.part
    within = "" if size is None else f" and its {kind}s 0 to {size - 1}"
    raise UnknownNameError(
        f"{model.cfg.model_name} has no {kind} {component}: its layers are 0 to {n_layers - 1}"
        f"{within}."
    )


def _check_hooked(
    components: Iterable[Component], parts: Collection[str], layers: Collection[int], what: str
) -> None:
    for component in components:
        if component.part in parts and component.layer not in layers:
            raise UnsupportedModelError(
                f"{component} cannot be ablated: layer {component.layer} of this model has no "
                f"{what} to hook. It may be recurrent, or a mixture of experts."
            )
