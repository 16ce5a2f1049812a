"""Files are written whole: to a temporary name, then renamed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mi_toolkit.core.errors import MIToolkitError, ReportError, UnknownNameError, in_one_line


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path in the same folder; it takes the name `path` when the block succeeds.

    After an error, or when the process is killed, `path` is what it was before.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        dir=target.parent, prefix=f".{target.name}.draft-", suffix=target.suffix
    )
    os.close(handle)
    draft = Path(name)
    try:
        yield draft
        with draft.open("rb") as written:
            os.fsync(written.fileno())
        draft.chmod(0o666 & ~_umask())
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def remove_drafts(folder: Path) -> None:
    """Remove what `atomic_write` left in a folder when its process was killed."""
    for path in folder.glob(".*.draft-*"):
        path.unlink()


def read_json(
    path: str | os.PathLike[str], error: type[MIToolkitError] = ReportError
) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        MIToolkitError: of the type `error`: it cannot be read, or holds no object.
    """
    way_out = "Bring it back from a copy, or choose another folder"
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as failure:
        raise error(f"{path} is damaged: {in_one_line(failure)}. {way_out}.") from failure
    if not isinstance(found, dict):
        raise error(f"{path} is damaged: it holds no JSON object. {way_out}.")
    return found


def file_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with Path(path).open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def folder_name(model: str) -> str:
    """A model's name as the name of a folder.

    >>> folder_name("EleutherAI/pythia-160m"), folder_name("./my models/a b")
    ('EleutherAI--pythia-160m', 'my-models--a-b')
    """
    name = re.sub(r"[/\\]+", "--", model)
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "model"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


PICTURES = ("png", "svg", "pdf")
"""The formats that figures are written in, by the endings of names."""


def picture_kind(path: str | os.PathLike[str], kinds: Sequence[str] = PICTURES) -> str:
    """The format that a picture's name asks for: `png`, `svg` or `pdf`.

    >>> picture_kind("heads.SVG")
    'svg'

    Raises:
        UnknownNameError: it has another ending, or none.
    """
    ending = Path(path).suffix.casefold().removeprefix(".")
    if ending not in kinds:
        listed = [f".{kind}" for kind in kinds]
        raise UnknownNameError(
            f"{os.fspath(path)!r} names no picture that can be written: let it end in "
            f"{' or '.join(', '.join(listed).rsplit(', ', 1))} (LaTeX takes .pdf)."
        )
    return ending
