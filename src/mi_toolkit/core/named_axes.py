"""Tensors that are indexed by what their axes stand for: `lift["induction", "L5H1"]`.

1. The annotation of a result's field names the axes: `Float[Tensor, "behaviour layer head"]`.
2. What stands along an axis is in a field of the same result: along `behaviour` what `behaviours`
   (or `behaviour_names`) lists; layers and heads that no field lists are counted, from L0 and H0.
3. Each name of an index takes its own axis, wherever that stands; the rest of the index is torch's,
   of the axes that are left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, get_type_hints

import torch
from jaxtyping import AbstractArray
from torch import Tensor

from mi_toolkit.core.errors import UnknownNameError, unknown_name
from mi_toolkit.core.head import Head


@dataclass(frozen=True)
class Axis:
    """One axis of a tensor."""

    kind: str
    """What it runs over: `behaviour`, `layer`."""

    names: tuple[str, ...]
    """What stands along it; empty where it has numbers only."""


class NamedTensor(Tensor):
    """A tensor that takes names in an index; what is computed from it is an ordinary tensor.

    >>> axes = [Axis("behaviour", ("induction",)), Axis("layer", ("L0", "L1"))]
    >>> figures = named(torch.eye(2)[None], [*axes, Axis("head", ("H0", "H1"))])
    >>> figures["induction"]["L1H1"], figures["L1H1"], figures["induction", "L1"]
    (tensor(1.), tensor([1.]), tensor([0., 1.]))
    >>> figures["induction", ["L0H0", "L0H1"]]
    tensor([1., 0.])
    """

    axes: tuple[Axis, ...]
    # As torch's own parameters have it.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __getitem__(self, index: Any) -> Tensor:
        """The entries that names, numbers, slices and masks choose.

        Raises:
            UnknownNameError: a name that stands along no axis that is left.
        """
        parts = list(index) if type(index) is tuple else [index]
        found: Tensor = self.as_subclass(Tensor)
        axes: list[Axis] | None = list(self.axes)
        rest = []
        for part in parts:
            if _is_name(part, self.axes):
                found, axes = _chosen(found, axes or [], part)
            else:
                rest.append(part)
        if rest:
            found = found[tuple(rest)]
            axes = _axes_left(axes or [], rest)
        return found if axes is None else named(found, axes)

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]  # torch has it untyped
        return repr(self.as_subclass(Tensor))

    def __deepcopy__(self, memo: Any) -> Tensor:
        return named(self.as_subclass(Tensor).clone(), self.axes)


def named(tensor: Tensor, axes: Sequence[Axis]) -> Tensor:
    """The same tensor, which takes names; as it is where nothing along it has any."""
    if not any(axis.names for axis in axes):
        return tensor
    found = tensor.as_subclass(NamedTensor)
    found.axes = tuple(axes)
    return found


def _is_name(part: Any, axes: Sequence[Axis]) -> bool:
    """Whether a part of an index is a name, a head, or several; `(5, 1)` is one where heads are."""
    if isinstance(part, str | Head):
        return True
    if isinstance(part, list) and part:
        return all(_is_name(each, axes) and not isinstance(each, list) for each in part)
    is_pair = isinstance(part, tuple) and len(part) == 2 and all(type(n) is int for n in part)
    return is_pair and {"layer", "head"} <= {axis.kind for axis in axes}


def _chosen(tensor: Tensor, axes: list[Axis], name: Any) -> tuple[Tensor, list[Axis]]:
    """What a name chooses, and the axes that are left; several names stay an axis, in front."""
    if not isinstance(name, list):
        for place, number in sorted(_places(axes, name), reverse=True):
            tensor = tensor.select(place, number)
            axes = [*axes[:place], *axes[place + 1 :]]
        return tensor, axes
    found = [_chosen(tensor, axes, each) for each in name]
    left = found[0][1]
    if any(others != left for _, others in found):
        raise unknown_name(_kinds(axes), name[-1], (), shown=["names of one axis in a list"])
    kind = "+".join(axis.kind for axis in axes if axis not in left)
    return torch.stack([each for each, _ in found]), [Axis(kind, tuple(map(str, name))), *left]


def _places(axes: Sequence[Axis], name: Any) -> list[tuple[int, int]]:
    """The axes that a name takes, and the number along each."""
    text = str(Head.of(name)) if isinstance(name, tuple) else name
    for place, axis in enumerate(axes):
        if text in axis.names:
            return [(place, axis.names.index(text))]
    kinds = [axis.kind for axis in axes]
    head = _head_called(text) if {"layer", "head"} <= set(kinds) else None
    if head is not None:
        both = {"layer": f"L{head.layer}", "head": f"H{head.head}"}
        named_axes = {kind: axes[kinds.index(kind)].names for kind in both}
        if all(both[kind] in named_axes[kind] for kind in both):
            return [(kinds.index(k), named_axes[k].index(both[k])) for k in both]
    known = [each for axis in axes for each in axis.names if axis.kind not in ("layer", "head")]
    shown = [*known, *_counted(axes)]
    raise unknown_name(_kinds(axes), text, known or shown, shown=shown)


def _head_called(name: str) -> Head | None:
    try:
        return Head.of(name)
    except UnknownNameError:
        return None


def _counted(axes: Sequence[Axis]) -> Iterator[str]:
    ends = {axis.kind: (axis.names[0], axis.names[-1]) for axis in axes if axis.names}
    if "layer" in ends and "head" in ends:
        (first, last), (low, high) = ends["layer"], ends["head"]
        yield f"{first}{low} to {last}{high}"
        return
    for kind in ("layer", "head"):
        if kind in ends:
            yield f"{ends[kind][0]} to {ends[kind][1]}"


def _kinds(axes: Sequence[Axis]) -> str:
    kinds = [axis.kind for axis in axes if axis.names] or ["named axis that is left"]
    return " or ".join(", ".join(kinds).rsplit(", ", 1))


def _axes_left(axes: list[Axis], rest: Sequence[Any]) -> list[Axis] | None:
    """The axes after an index of numbers and slices; None after any other."""
    left: list[Axis] = []
    for axis, part in zip(axes, rest, strict=False):
        if isinstance(part, slice):
            left.append(Axis(axis.kind, axis.names[part]))
        elif type(part) is not int:
            return None
    return [*left, *axes[len(rest) :]]


class NamedAxes:
    """A dataclass whose tensors are indexed by the names of their axes."""

    def __post_init__(self) -> None:
        own: Any = type(self)
        for field, kinds in _axes_of(own).items():
            tensor = getattr(self, field)
            if isinstance(tensor, Tensor) and tensor.ndim == len(kinds):
                # The dataclass is frozen; the tensor is the same.
                object.__setattr__(self, field, self.with_names(tensor, *kinds))

    def with_names(self, tensor: Tensor, *kinds: str) -> Tensor:
        """A tensor that takes the names of what its axes run over."""
        sides = zip(kinds, tensor.shape, strict=True)
        axes = [Axis(kind, self._names_along(kind, size)) for kind, size in sides]
        return named(tensor.as_subclass(Tensor), axes)

    def _names_along(self, kind: str, size: int) -> tuple[str, ...]:
        for field in (f"{kind}_names", f"{kind}s"):
            listed = getattr(self, field, None)
            if isinstance(listed, tuple) and len(listed) == size:
                return tuple(f"L{each}" if kind == "layer" else str(each) for each in listed)
        letter = {"layer": "L", "head": "H"}.get(kind)
        return tuple(f"{letter}{number}" for number in range(size)) if letter else ()


@cache
def _axes_of(kind: Any) -> dict[str, tuple[str, ...]]:
    """The fields of a dataclass that are tensors, and what their annotations call their axes."""
    hints = get_type_hints(kind)
    found = {}
    for field in fields(kind):
        annotation = hints[field.name]
        if isinstance(annotation, type) and issubclass(annotation, AbstractArray):
            found[field.name] = tuple(annotation.dim_str.split())
    return found
