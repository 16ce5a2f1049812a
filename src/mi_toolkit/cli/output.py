"""Writing what a command made: checked before the work, whole or not at all, and told."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import mi_toolkit as mi
from mi_toolkit.cli.terminal import doing
from mi_toolkit.core.errors import MIToolkitError
from mi_toolkit.core.io import atomic_write

if TYPE_CHECKING:
    from mi_toolkit.core.tables import DataFrame


class OutputError(MIToolkitError):
    """A place that cannot be written to."""


def check_file(path: Path | None) -> None:
    """Check that `path` can be written, before the work that would fill it. None passes.

    Raises:
        OutputError: it is a folder, or its folder can neither be written nor made.
    """
    if path is None:
        return
    if path.is_dir():
        raise OutputError(f"{path} is a folder: give the name of a file in it.")
    check_folder(path.parent)


def check_folder(path: Path | None) -> None:
    """Check that files can be written into `path`, made where it does not exist. None passes.

    Raises:
        OutputError: it is a file, or no such folder can be written or made.
    """
    if path is None:
        return
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise OutputError(f"{there} is a file, so there can be no folder {path}.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(f"{there} is not yours to write to.")


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Make the folder of `path`; a failure of the disk is the caller's to mend, not a bug.

    Raises:
        OutputError: the operating system refused.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield path
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}.") from error


def write_tables(folder: Path, tables: Mapping[str, DataFrame]) -> list[Path]:
    """Write each table as CSV under its file name, and say where they are."""
    written = []
    for name, table in tables.items():
        with writing(folder / name) as path, atomic_write(path) as draft:
            table.to_csv(draft, index=False, float_format="%.6g")
        written.append(path)
    return written


@runtime_checkable
class Drawable(Protocol):
    """A view that keeps itself as a page or a picture."""

    def save_html(self, path: Path) -> None: ...  # noqa: D102

    def save_png(self, path: Path) -> None: ...  # noqa: D102


def draw(result: Any, html: Path | None, png: Path | None) -> list[Path]:
    """Write a result's page and picture where they are wanted, and say where they are."""
    if html is None and png is None:
        return []  # what draws is not even imported
    view: Drawable = mi.view(result)
    written = []
    for path, save in ((html, view.save_html), (png, view.save_png)):
        if path is not None:
            with doing(f"Drawing {path}"), writing(path):
                save(path)
            written.append(path)
    return written


def say_written(paths: Sequence[Path]) -> None:
    """Tell what was written, a line each, after an empty one."""
    if paths:
        print()
    for path in paths:
        print(f"Wrote {path}")


def fields_of(record: Any) -> dict[str, Any]:
    """A record's fields by name, as they are: `dataclasses.asdict` cannot copy a frozen mapping."""
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


def as_json(values: Mapping[str, Any] | list[Any]) -> str:
    """JSON that any parser reads: NaN, which JSON does not have, becomes null.

    >>> as_json({"score": [0.5, float("nan")]})
    '{"score": [0.5, null]}'
    """
    return json.dumps(_without_nan(values), ensure_ascii=False, allow_nan=False)


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


_GAP = "  "
_NARROWEST = 20
_TIE = "\N{NO-BREAK SPACE}"  # textwrap does not break here


def columns(
    rows: Sequence[Sequence[str]],
    *,
    width: int,
    align: str = "",
    widest: int | None = None,
) -> list[str]:
    """Lines of text, one or more per row: columns as wide as their content, the last one wrapped.

    The last column keeps at least 20 characters, so in a very narrow terminal lines are longer
    than `width`; `align` has a `<` or `>` for each of the others. A cell wider than `widest` does
    not widen its column: the rest of its row begins on the next line.

    >>> for line in columns([["a", "one"], ["bcd", "two three four five six"]], width=26):
    ...     print(line)
    a    one
    bcd  two three four five
         six
    """
    if not rows:
        return []
    *before, _ = zip(*rows, strict=True)
    widths = [
        max((len(cell) for cell in column if widest is None or len(cell) <= widest), default=0)
        for column in before
    ]
    indent = sum(widths) + len(_GAP) * len(widths)
    room = max(width - indent, _NARROWEST)
    sides = align or "<" * len(widths)
    lines = []
    for *cells, last in rows:
        padded = [
            f"{cell:{side}{size}}" for cell, side, size in zip(cells, sides, widths, strict=True)
        ]
        first, *more = wrapped(last, room) or [""]
        start = _GAP.join([*padded, ""])
        if len(start) > indent:
            first, more = "", [first, *more]
        lines.append(start + first)
        lines.extend(" " * indent + line for line in more)
    return [line.replace(_TIE, " ").rstrip() for line in lines]


def wrapped(text: str, width: int) -> list[str]:
    """`text` in lines of at most `width`, words and names kept whole.

    >>> wrapped("a well-kept secret", 12)
    ['a well-kept', 'secret']
    """
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def packed(items: Sequence[str], *, width: int, most_lines: int) -> tuple[str, int]:
    r"""Items side by side, as many as go into `most_lines` lines, and how many did not.

    They are padded to one length and tied together inside, so that as a last column they wrap
    between items only, and stand below each other.

    >>> text, left_out = packed(["L0H1 0.9", "L1H12 0.8", "L3H0 0.7"], width=20, most_lines=1)
    >>> text.replace("\xa0", "_"), left_out
    ('L0H1_0.9_  L1H12_0.8', 1)
    """
    size = max(map(len, items), default=0)
    per_line = max((width + len(_GAP)) // (size + len(_GAP)), 1)
    shown = [f"{item:{size}}".replace(" ", _TIE) for item in items[: per_line * most_lines]]
    return _GAP.join(shown), len(items) - len(shown)
