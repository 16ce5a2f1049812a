"""Files are written whole: to a temporary name, then renamed. A disk that refuses is reported."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mi_toolkit.core.errors import (
    MIToolkitError,
    ReportError,
    UnknownNameError,
    WriteError,
    in_one_line,
)
from mi_toolkit.core.interrupts import contexts_whole


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path in the same folder; it takes the name `path` when the block succeeds.

    After an error, or when the process is killed, `path` is what it was before. A link stays one:
    the file that it leads to is written. What is no file (a pipe, `/dev/stdout`) has no old content
    to keep: what was written is passed on to it.

    Raises:
        WriteError: the system refuses to write: the disk is full, say.
    """
    target = Path(path)
    passed_on = _is_passed_on(target)
    with contexts_whole(), _refusals_in_words(target):
        if not passed_on:
            target = target.resolve()
            target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            dir=None if passed_on else target.parent,
            prefix=f".{target.name}.draft-",
            suffix=target.suffix,
        )
        os.close(handle)
        draft = Path(name)
        try:
            with system_errors():
                yield draft
            if passed_on:
                with draft.open("rb") as written, target.open("ab") as out:
                    shutil.copyfileobj(written, out)
                return
            with draft.open("rb") as written:
                os.fsync(written.fileno())
            draft.chmod(0o666 & ~_umask())
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)


def _is_passed_on(path: Path) -> bool:
    """Whether a path is a pipe or a device, or what a process has open: never replaced."""
    if not path.exists() or path.is_dir():
        return False
    while path.is_symlink() and not _is_of_a_process(path):
        path = path.parent / path.readlink()
    return _is_of_a_process(path) or not path.is_file()


def _is_of_a_process(path: Path) -> bool:
    """Whether a path names what a process has open, as `/dev/stdout` leads to."""
    return path.parent.resolve().parts[1:2] == ("proc",)


@contextmanager
def _refusals_in_words(path: Path) -> Iterator[None]:
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        room = "Make room, or give" if disk_is_full(error) else "Give"
        refused = WriteError(
            f"{path} cannot be written: {refusal(error)}. {room} another place; what was there "
            "before is as it was."
        )
        refused.errno = error.errno
        raise refused from error


FULL = "the disk is full"


def disk_is_full(error: BaseException | None) -> bool:
    """Whether an error is of a disk that took no more, or has its cause in one."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EFBIG,
        ):
            return True
        error = error.__cause__
    return False


def refusal(error: OSError) -> str:
    """Why the system refuses, in words that go on after a colon."""
    if disk_is_full(error):
        return FULL
    cause = error.__cause__
    return refusal(cause) if isinstance(cause, OSError) else error.strerror or str(error)


@contextmanager
def system_errors() -> Iterator[None]:
    """Inside, what libraries in Rust say of the system is an OSError, as Python's own say it.

    Safetensors and tokenizers put the system's number into the words of errors of their own.
    """
    try:
        yield
    except Exception as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None or isinstance(error, OSError):
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def remove_drafts(folder: Path, *, of: str | None = None, and_below: bool = False) -> None:
    """Remove what `atomic_write` left in a folder when its process was killed.

    Args:
        folder: the folder; it may not be there.
        of: the name of a file, whose drafts alone are removed; None for those of all.
        and_below: in all folders in it, too: where the whole of it is the library's own.
    """
    drafts = f".{'*' if of is None else glob.escape(of)}.draft-*"
    for path in folder.glob(f"**/{drafts}" if and_below else drafts):
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


WRITERS = {
    "save": ("safetensors",),
    "mi.view(result).save_png": ("png", "pdf", "jpg", "jpeg"),
    "mi.view(result).save_svg": ("svg",),
    "mi.view(result).save_html": ("html", "htm"),
    "result.to_pandas().to_csv": ("csv", "tsv"),
    "result.to_pandas().to_json": ("json", "jsonl"),
    "result.to_pandas().to_parquet": ("parquet",),
    "numpy.savez": ("npz", "npy"),
    "torch.save": ("pt", "pth"),
}
"""The endings that say what a file holds, by what writes such files."""


def other_writer(path: str | os.PathLike[str], *own: str) -> str | None:
    """What writes files of a name's ending, where that says something else than `own` endings."""
    ending = Path(path).suffix.casefold().removeprefix(".")
    of_others = {each: writer for writer, endings in WRITERS.items() for each in endings}
    return None if ending in own else of_others.get(ending)


def check_ending(path: str | os.PathLike[str], holds: str, *own: str) -> None:
    """Check that a file's name does not say that it holds something else; any other may be.

    Raises:
        UnknownNameError: it does.
    """
    if other_writer(path, *own) is not None:
        raise UnknownNameError(
            f"{os.fspath(path)!r} would hold {holds}: let its name end in .{own[0]}."
        )


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
