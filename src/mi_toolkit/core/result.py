"""Results that a file holds: dataclasses whose types say how they are read back.

Every field is kept: tensors under the path of their place, such as `sequences/0/ids`, all else as
JSON next to them (`save_record`), with a checksum of each: a file that was damaged is refused, not
read as other figures. The types of the fields turn lists into tuples again, and names into what
they name.
"""

from __future__ import annotations

import json
import os
import zlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, reduce
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from cattrs import BaseValidationError, Converter
from jaxtyping import AbstractArray, AnnotationError, jaxtyped
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mi_toolkit.core.display import TableRepr, TextTable
from mi_toolkit.core.errors import MIToolkitError, ReportError, in_one_line
from mi_toolkit.core.io import atomic_write, other_writer
from mi_toolkit.core.named_axes import NamedAxes
from mi_toolkit.core.tables import table_of

if TYPE_CHECKING:
    from mi_toolkit.core.tables import DataFrame


def save_record(
    path: str | os.PathLike[str],
    *,
    format: str,
    tensors: Mapping[str, Tensor],
    record: Mapping[str, Any],
) -> None:
    """Write tensors and the record next to them, whole or not at all.

    Args:
        path: the file.
        format: what the file holds and its version, such as `mi_toolkit head report 1`.
        tensors: by name.
        record: plain values that JSON can hold.

    Raises:
        WriteError: it cannot be written: the disk is full, say.
    """
    plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
    text = json.dumps(record)
    checksums = json.dumps({name: _checksum(tensor) for name, tensor in plain.items()})
    metadata = {
        "format": format,
        "report": text,
        "checksums": checksums,
        "checksum": str(zlib.crc32(f"{text}{checksums}".encode())),
    }
    with atomic_write(path) as draft:
        save_file(plain, draft, metadata=metadata)
        _order_metadata(draft)


def _checksum(tensor: Tensor) -> int:
    """CRC-32 of a tensor's type, shape and bytes: what shows damage, at the speed of reading."""
    content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
    return zlib.crc32(content, zlib.crc32(f"{tensor.dtype} {list(tensor.shape)}".encode()))


def _order_metadata(path: Path) -> None:
    """Put the header's metadata in order: safetensors writes it in another one each time.

    So equal results are equal files. The header keeps its length, and the tensors their place.
    """
    with path.open("r+b") as opened:
        size = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        ordered = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(ordered) <= size:
            opened.seek(8)
            opened.write(ordered.ljust(size))


def load_record(
    path: str | os.PathLike[str],
    *,
    format: str | tuple[str, ...],
    kind: str,
    outdated: Mapping[str, str] = MappingProxyType({}),
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read back what `save_record` wrote.

    Args:
        path: the file.
        format: the format that it must have been saved with, or those, the newest first.
        kind: what it is called in an error, such as `head report`.
        outdated: older formats that are refused: why, and what to do.

    Raises:
        ReportError: no such file, it is damaged, or it holds something else.
    """
    if Path(path).is_dir():
        inside = sorted(each.name for each in Path(path).glob("*.safetensors"))
        way = f"give one of its files, such as {inside[0]}" if inside else "give a file"
        raise ReportError(f"{path} is a folder: {way}.")
    if not Path(path).is_file():
        raise ReportError(f"No {kind} at {path}: there is no such file.")
    with _read_whole(path), safe_open(path, framework="pt") as stored:
        metadata = stored.metadata() or {}
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    if metadata.get("format") in outdated:
        why = outdated[metadata["format"]]
        raise ReportError(f"{path} holds a {kind} of an older version: {why}.")
    formats = (format,) if isinstance(format, str) else format
    if metadata.get("format") not in formats:
        raise ReportError(
            f"{path} is a safetensors file, but holds no {kind} of this version "
            f"({metadata.get('format', 'no format named')}; wanted {formats[0]!r})."
        )
    with fields_fit(path, kind):
        _check(metadata, tensors)
        record: dict[str, Any] = json.loads(metadata["report"])
        return tensors, record


def load_tensor(path: str | os.PathLike[str], name: str) -> Tensor:
    """Read one tensor of a record, and leave the others on the disk.

    Raises:
        ReportError: no such file, or it is damaged.
    """
    with _read_whole(path), safe_open(path, framework="pt") as stored:
        tensor: Tensor = stored.get_tensor(name)
        written = json.loads((stored.metadata() or {}).get("checksums", "{}"))
    if name in written and written[name] != _checksum(tensor):
        raise ReportError(f"{path} is damaged: {name} is not what was written.")
    return tensor


@contextmanager
def _read_whole(path: str | os.PathLike[str]) -> Iterator[None]:
    """Inside, what safetensors raises on a file that is damaged becomes a `ReportError`."""
    try:
        yield
    except (SafetensorError, OSError, RuntimeError, *UNFIT) as error:
        reason = in_one_line(error)
        raise ReportError(f"{path} is no safetensors file, or is damaged: {reason}.") from error


def _check(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    """Compare a file with its checksums, which those of older versions do not have."""
    if "checksums" not in metadata:
        return
    text, written = metadata["report"], metadata["checksums"]
    found = {name: _checksum(tensor) for name, tensor in tensors.items()}
    same = found == json.loads(written)
    if not same or metadata["checksum"] != str(zlib.crc32(f"{text}{written}".encode())):
        raise ValueError("it is not what was written")


UNFIT = (BaseValidationError, LookupError, TypeError, ValueError, AttributeError, RecursionError)
"""What is raised where plain values are not those that were written."""


@contextmanager
def fields_fit(
    path: str | os.PathLike[str], kind: str, error: type[MIToolkitError] = ReportError
) -> Iterator[None]:
    """Inside, values of a file that cannot be made into what they should be are named as damage.

    Raises:
        MIToolkitError: of the type `error`.
    """
    try:
        yield
    except MIToolkitError:
        raise
    except UNFIT as failure:
        raise error(
            f"{path} is a {kind} by its header, but its fields do not fit: it is damaged."
        ) from failure


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
            ReportError: by its name the file is a picture, a page or a table.
            WriteError: it cannot be written: the disk is full, say.
        """
        if (writer := other_writer(path, "safetensors")) is not None:
            raise ReportError(
                f"save writes a safetensors file, and {os.fspath(path)!r} names another kind: "
                f"{writer} writes that."
            )
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
        with fields_fit(path, kind):
            return cls.put_together(record, tensors)

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
        return structured(_put_together(record, tensors), cls)


Made = TypeVar("Made")


def structured(values: Any, kind: type[Made]) -> Made:
    """A dataclass of plain values, and of tensors in their places, each of its field's type."""
    return _converter().structure(values, kind)


INSTEAD = {
    **dict.fromkeys(("df", "to_df", "to_dataframe"), "to_pandas()"),
    "to_csv": "to_pandas().to_csv(path)",
    "to_dict": "rows(), a dictionary each",
    "to_json": "rows(), a dictionary each, and save(path)",
    **dict.fromkeys(("plot", "show", "figure"), "mi.view(result) shows it"),
    **dict.fromkeys(
        ("save_html", "to_html", "save_png", "save_svg"), "mi.view(result) has save_html, save_png"
    ),
}
"""Of results: what people look for, and what there is."""


class Result(SavedResult, NamedAxes, TableRepr):
    """What a function of the library finds: it is saved, loaded, shown, and a table.

    The types of its fields say how it is saved; `rows` says what its table holds, from which come
    `to_pandas`, and what is shown where the result has no better words for itself. Its tensors
    are indexed by the names of their axes, too (`named_axes`).
    """

    def __getattr__(self, name: str) -> Any:
        instead = f", but {INSTEAD[name]}" if name in INSTEAD else ""
        raise AttributeError(f"{type(self).__name__} has no {name}{instead}.", name=name, obj=self)

    @abstractmethod
    def rows(self) -> Iterable[Mapping[str, Any]]:
        """The table's rows: figures by the names of their columns."""

    def title(self) -> str:
        """What the result is of, in one line."""
        return type(self).__name__

    def to_pandas(self) -> DataFrame:
        """The rows as a table; see `rows` for what each of them is."""
        return table_of(self.rows())

    def text_table(self) -> TextTable:
        """The first rows in words."""
        rows = list(self.rows())
        shown = [[_in_words(cell) for cell in row.values()] for row in rows[:MOST_ROWS]]
        if len(rows) > MOST_ROWS:
            shown.append([f"and {len(rows) - MOST_ROWS} more"])
        header = [name.replace("_", " ") for name in (rows[0] if rows else ())]
        return TextTable(title=self.title(), header=header, rows=shown)


MOST_ROWS = 20
"""How many rows of a table are shown where all of them might be thousands."""


def _in_words(cell: Any) -> str:
    if cell is None or cell != cell:
        return "–"
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)


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


def _there(value: Any, kind: Any) -> Tensor:
    if not isinstance(value, Tensor) or not _is_shaped(value, kind):
        raise TypeError("a tensor is missing, or is another")
    return value


def _is_shaped(tensor: Tensor, kind: Any) -> bool:
    try:
        with jaxtyped("context"):  # lengths that a caller's annotations gave to axes are not ours
            return isinstance(tensor, kind)
    except AnnotationError:  # an axis such as `position-1`, which others tell
        return tensor.ndim == len(kind.dims)


def _is_tensor(kind: Any) -> bool:
    """Whether a field's type is a tensor's, with a shape or without."""
    return isinstance(kind, type) and issubclass(kind, Tensor | AbstractArray)


def _has_a_name(kind: Any) -> bool:
    """Whether things of that type are made of what they print as: heads, components."""
    return isinstance(kind, type) and hasattr(kind, "of") and "__str__" in vars(kind)
