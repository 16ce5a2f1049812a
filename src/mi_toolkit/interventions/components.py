"""Parts of a model that can be ablated, by name: `L5H1`, `L5N300`, `L5.attn`, `L5.mlp`, `L5`.

What is ablated: marks on one activation, for every row of a batch or row by row.

1. A head's activation is its `z`, `["batch position head d_head"]`, before `W_O` and per query
   head where keys and values are shared; a neuron's is the MLP's hidden activation,
   `["batch position d_mlp"]`, before `W_out`.
2. Whole parts are all marks of an activation, so that any set of components is one mask each.

The kinds of ablation see hook names and marks only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from mi_toolkit.core.errors import UnknownNameError, UnsupportedModelError, short_repr
from mi_toolkit.core.head import Head, HeadName, one_or_several
from mi_toolkit.core.model import (
    HookedModel,
    HookFunction,
    attention_layers,
    by_head,
    mlp_layers,
    neuron_count,
    neuron_hook,
    z_hook,
)

Part = Literal["head", "attn", "neuron", "mlp", "layer"]

_WHOLE_PARTS: Mapping[str, Part] = {"attn": "attn", "mlp": "mlp", "": "layer"}
MOST_NAMED = 6
"""Components that a title names one by one."""

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
    """Layer of the component, from zero."""

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
                f"{short_repr(name)} names no part of a model.{_hint(name)} Write 'L5H1' or "
                "(5, 1) for a head, 'L5N300' for a neuron, 'L5.attn' or 'L5.mlp' for all of a "
                "layer's heads or neurons, 'L5' for both; all counted from zero."
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


def _hint(name: object) -> str:
    """What is meant by a text that is no name of a part, where that can be seen."""
    if isinstance(name, str) and name.startswith("label:"):
        label = name.removeprefix("label:")
        return f" The heads with a label are report.heads({label!r}), of a classify_heads report."
    if isinstance(name, str) and len(name.replace(",", " ").split()) > 1:
        return f" Several go into a list: {name.replace(',', ' ').split()}."
    return ""


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


def in_words(components: Sequence[Component]) -> str:
    """Their names, or of many how many they are; empty of none."""
    if len(components) > MOST_NAMED:
        return f"{len(components)} components"
    return " ".join(map(str, components))


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


def _several(names: Any) -> list[Any]:
    """The names one by one: `(5, 1)` is one head."""
    if isinstance(names, Component):
        return [names]
    if not isinstance(names, Iterable) or getattr(names, "ndim", 1) == 0:
        way = f", 'L{names}' for a whole layer" if isinstance(names, int) else ""
        raise UnknownNameError(
            f"{short_repr(names)} names no part of a model, nor several: write 'L5H1' for a head"
            f"{way}, or a list of such."
        )
    return one_or_several(names)


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


Hooks = list[tuple[str, HookFunction]]

Apply = Callable[[Sequence["Target"]], Hooks]
"""A kind of ablation: gives, for targets, the hooks that replace their activations."""

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
