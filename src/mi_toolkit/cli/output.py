"""Writing what a command made: checked before the work, whole or not at all, and told."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mi_toolkit.errors import MIToolkitError


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
