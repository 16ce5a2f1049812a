"""What a command gives: its options, and files checked before the work and written whole."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import Group, Parameter

import mi_toolkit as mi
from mi_toolkit.cli.options import Switch
from mi_toolkit.cli.terminal import doing, third_parties_kept_off_stdout
from mi_toolkit.core.errors import MIToolkitError, WriteError
from mi_toolkit.core.io import atomic_write, check_ending, picture_kind, refusal

if TYPE_CHECKING:
    from mi_toolkit.core.result import Result
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


def check_picture(path: Path | None) -> None:
    """Check that a picture can be written to `path`. None passes.

    Raises:
        OutputError: as `check_file` does.
        UnknownNameError: its name ends in no format that pictures are written in.
    """
    check_file(path)
    if path is not None:
        picture_kind(path)


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
    except WriteError:
        raise
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {refusal(error)}.") from error


@Parameter(name="*", group=Group("What it gives", sort_key=2))
@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Where a result goes. Folders that are not there are made; files there are replaced."""

    output: Path | None = None
    """Folder for all of it: the result as .safetensors, which its class loads again, its tables
    as .csv, and the picture as .png."""

    html: Path | None = None
    """File for a page of its own."""

    png: Path | None = None
    """File for the picture alone: PNG, SVG or PDF, by its ending."""

    csv: Path | None = None
    """File for the table."""

    json: Switch = False
    """Write JSON instead of a table, and nothing else, to standard output."""

    def check(self) -> None:
        """Check that everything can be written, before the work that would fill it.

        Raises:
            OutputError: a file where a folder should be, or the other way round, or no right to.
            UnknownNameError: a picture of no format that can be written, or a name that says
                something else than what it would hold.
        """
        check_folder(self.output)
        pages_and_tables = ((self.html, "a page", "html", "htm"), (self.csv, "a table", "csv"))
        for path, holds, *own in pages_and_tables:
            check_file(path)
            if path is not None:
                check_ending(path, holds, *own)
        check_picture(self.png)

    def deliver(
        self,
        result: Result,
        *,
        name: str,
        record: Callable[[], Mapping[str, Any]],
        lines: Callable[[], Iterable[str]],
        tables: Mapping[str, Callable[[], DataFrame]] | None = None,
        save: Callable[[Path], None] | None = None,
        page: Callable[[], Any] | None = None,
    ) -> None:
        """Write a result wherever it is wanted, then print it: in words, or as JSON.

        Args:
            result: what the command found.
            name: of its files in the folder, without an ending.
            record: what JSON says of it.
            lines: the result in words.
            tables: by file name, the first for `--csv`; without it, the result's own.
            save: what writes the result's own file; without it `result.save`.
            page: what `--html` draws; without it the result's view.
        """
        made = {  # once, also where both a folder and a file want it
            file: cache(make)
            for file, make in (tables or {f"{name}.csv": result.to_pandas}).items()
        }
        written: list[Path] = []
        with third_parties_kept_off_stdout():
            if self.output is not None:
                with writing(self.output / f"{name}.safetensors") as path:
                    (save or result.save)(path)
                written.append(path)
                written += write_tables(self.output, {file: made[file]() for file in made})
            if self.csv is not None:
                first = next(iter(made.values()))
                written += write_tables(self.csv.parent, {self.csv.name: first()})
            shown: Any = result
            drawn = cache(lambda: mi.view(shown))  # what draws is imported where it is wanted
            written += draw_view(page or drawn, self.html, None)
            if self.output is not None:
                written += draw_view(drawn, None, self.output / f"{name}.png")
            written += draw_view(drawn, None, self.png)
        self.show(record, lines, written)

    def show(
        self,
        record: Callable[[], Mapping[str, Any]],
        lines: Callable[[], Iterable[str]],
        written: Sequence[Path],
    ) -> None:
        """Print a result and where it was written."""
        if self.json:
            print(as_json({**record(), "written": [str(path) for path in written]}))
            return
        for line in lines():
            print(line)
        say_written(written)


DEFAULT_OUTPUT = OutputOptions()
"""The options of `OutputOptions` where the caller gives none."""


def write_tables(folder: Path, tables: Mapping[str, DataFrame]) -> list[Path]:
    """Write each table as CSV under its file name, and say where they are."""
    written = []
    for name, table in tables.items():
        with writing(folder / name) as path, atomic_write(path) as draft:
            table.to_csv(draft, index=False, float_format="%.6g")
        written.append(path)
    return written


def draw_view(view: Callable[[], Any], html: Path | None, png: Path | None) -> list[Path]:
    """Draw a page and a picture where they are wanted, and say where they are."""
    written = []
    for path, kind in ((html, "save_html"), (png, "save_png")):
        if path is not None:
            with doing(f"Drawing {path}"), writing(path):
                getattr(view(), kind)(path)
            written.append(path)
    return written


def say_written(paths: Sequence[Path]) -> None:
    """Report what was written, a line each, after an empty one."""
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
    not widen its column: the rest of its row begins on the next line. Items that two spaces set
    apart are not broken, unless one is wider than its column.

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
        first, *more = wrapped(_tied(last, room), room) or [""]
        start = _GAP.join([*padded, ""])
        if len(start) > indent:
            first, more = "", [first, *more]
        lines.append(start + first)
        lines.extend(" " * indent + line for line in more)
    return [line.replace(_TIE, " ").rstrip() for line in lines]


def _tied(text: str, width: int) -> str:
    items = text.split(_GAP)
    if len(items) == 1:
        return text
    return _GAP.join(item.replace(" ", _TIE) if len(item) <= width else item for item in items)


def in_columns(rows: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    """A table as several below each other where one is too wide, the first column on each."""
    first, *others = (list(column) for column in zip(*rows, strict=True))
    room = width - max(map(len, first))
    while others:
        shown: list[list[str]] = []
        used = 0
        while others and (not shown or used + len(_GAP) + max(map(len, others[0])) <= room):
            shown.append(others.pop(0))
            used += len(_GAP) + max(map(len, shown[-1]))
        widest = max(map(len, shown[-1]))
        shown[-1] = [f"{cell:>{widest}}".replace(" ", _TIE) for cell in shown[-1]]
        table = [list(row) for row in zip(first, *shown, strict=True)]
        yield from columns(table, width=max(width, 20), align="<" + ">" * (len(shown) - 1))
        if others:
            yield ""


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
