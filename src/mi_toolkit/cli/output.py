"""Writing what a command made: checked before the work, whole or not at all, and told."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from mi_toolkit.cli.terminal import doing
from mi_toolkit.errors import MIToolkitError
from mi_toolkit.files import written_whole

if TYPE_CHECKING:
    from pandas import DataFrame


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
        with writing(folder / name) as path, written_whole(path) as draft:
            table.to_csv(draft, index=False, float_format="%.6g")
        written.append(path)
    return written


@runtime_checkable
class Drawable(Protocol):
    """A view that keeps itself as a page or a picture."""

    def save_html(self, path: Path) -> None: ...  # noqa: D102

    def save_png(self, path: Path) -> None: ...  # noqa: D102


def draw(view: Drawable, html: Path | None, png: Path | None) -> list[Path]:
    """Write a view's page and picture where they are wanted, and say where they are."""
    written = []
    for path, save in ((html, view.save_html), (png, view.save_png)):
        if path is not None:
            with doing(f"Drawing {path}"), writing(path):
                save(path)
            written.append(path)
    return written


def say_written(paths: Sequence[Path]) -> None:
    """Tell what was written, a line each, behind an empty one."""
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
