"""Results that a file holds: dataclasses whose types say how they are read back.

Every field is kept: tensors under the path of their place, such as `sequences/0/ids`, all else as
JSON beside them (`record_file`). The types of the fields turn lists into tuples again, and names
into what they name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache, reduce
from typing import Any, ClassVar, TypeVar

from cattrs import BaseValidationError, Converter
from jaxtyping import AbstractArray
from torch import Tensor

from mi_toolkit.errors import ReportError
from mi_toolkit.record_file import load_record, save_record

# Not `Self`: in the tests beartype decorates methods, not the class around them.
Saved = TypeVar("Saved", bound="SavedResult")


class SavedResult:
    """A dataclass that is saved to one file, and loaded from it."""

    FORMAT: ClassVar[str]
    """What the file holds and its version, such as `mi_toolkit generation 1`."""

    OUTDATED: ClassVar[Mapping[str, str]] = {}
    """Formats of older versions that are not read any more: why, and what to do."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to one safetensors file, what is not a tensor as JSON in its header.

        Whole or not at all: an interrupted save leaves what was there before.

        Raises:
            OSError: it cannot be written: the disk is full, say.
        """
        record, tensors = self.taken_apart()
        save_record(path, format=self.FORMAT, tensors=tensors, record=record)

    @classmethod
    def load(cls: type[Saved], path: str | os.PathLike[str]) -> Saved:  # noqa: PYI019 (see Saved)
        """Read one back.

        Raises:
            ReportError: no such file, it is damaged, or it holds something else.
        """
        kind = cls.FORMAT.removeprefix("mi_toolkit ").rpartition(" ")[0]
        tensors, record = load_record(path, format=cls.FORMAT, kind=kind, outdated=cls.OUTDATED)
        try:
            return cls.put_together(record, tensors)
        except (BaseValidationError, LookupError, TypeError, ValueError) as error:
            raise ReportError(
                f"{path} is a {kind} by its header, but its fields do not fit: it is damaged."
            ) from error

    def record(self) -> dict[str, Any]:
        """What is not a tensor, as plain values that JSON can hold."""
        return self.taken_apart()[0]

    def taken_apart(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What is not a tensor, as plain values, and the tensors by the path of their place."""
        return _taken_apart(self)

    @classmethod
    def put_together(  # noqa: PYI019 (see Saved)
        cls: type[Saved], record: dict[str, Any], tensors: Mapping[str, Tensor]
    ) -> Saved:
        """What `taken_apart` took apart; of a part of another result's file, say."""
        return _converter().structure(_put_together(record, tensors), cls)


def _taken_apart(result: SavedResult) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What is not a tensor, as plain values, and the tensors by the path of their place."""
    tensors: dict[str, Tensor] = {}

    def without_tensors(value: Any, place: tuple[str, ...]) -> Any:
        if isinstance(value, Tensor):
            tensors["/".join(place)] = value
            return None
        if isinstance(value, Mapping):
            kept = {
                str(key): without_tensors(each, (*place, str(key))) for key, each in value.items()
            }
            return {
                key: each for key, each in kept.items() if "/".join((*place, key)) not in tensors
            }
        if isinstance(value, list | tuple):
            return [without_tensors(each, (*place, str(i))) for i, each in enumerate(value)]
        return value

    return without_tensors(_converter().unstructure(result), ()), tensors


def _put_together(record: dict[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The plain values again, with the tensors in their places."""
    for place, tensor in tensors.items():
        *above, name = place.split("/")
        holder = reduce(lambda inside, step: inside[_key(inside, step)], above, record)
        holder[_key(holder, name)] = tensor
    return record


def _key(holder: dict[str, Any] | list[Any], step: str) -> Any:
    return int(step) if isinstance(holder, list) else step


@cache
def _converter() -> Converter:
    converter = Converter(forbid_extra_keys=True)
    converter.register_unstructure_hook_func(_is_tensor, lambda tensor: tensor)
    converter.register_structure_hook_func(_is_tensor, _there)
    converter.register_unstructure_hook_func(_has_a_name, str)
    converter.register_structure_hook_func(_has_a_name, lambda name, kind: kind.of(name))
    return converter


def _there(value: Any, _: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError("a tensor is missing")
    return value


def _is_tensor(kind: Any) -> bool:
    """Whether a field's type is a tensor's, with a shape or without."""
    return isinstance(kind, type) and issubclass(kind, Tensor | AbstractArray)


def _has_a_name(kind: Any) -> bool:
    """Whether things of that type are made of what they print as: heads, components."""
    return isinstance(kind, type) and hasattr(kind, "of") and "__str__" in vars(kind)
