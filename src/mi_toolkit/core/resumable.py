"""Work that is interrupted goes on where it was: what was asked, and the parts that are finished.

1. What was asked is kept as plain values: all that decides the figures, the weights and the
   installed versions among them.
2. Files are written whole, under another name that is then changed. A part of the work is entered
   into the folder's manifest, with size and SHA-256 of its files, after these are there.
3. A call that asks for the same takes the parts that are entered and whole, and makes the others.
4. Where something else was asked, it is refused, and each difference named: two runs never mix.

`ResumableFolder` keeps parts, each with files of its own; `Checkpoint` keeps the tensors of one
piece of work in one file. Either is for one process at a time.
"""

from __future__ import annotations

import hashlib
import json
import os
import reprlib
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from mi_toolkit.core.errors import MIToolkitError, ReportError
from mi_toolkit.core.io import atomic_write, file_digest, read_json, remove_drafts
from mi_toolkit.core.result import fields_fit, load_record, save_record, structured

FILE = "manifest.json"
MOST_DIFFERENCES = 4
"""How many an error names."""

PAUSE = 20
"""How many times as long as saving takes is worked before the next save: 5% of the time."""


def plain(value: Any) -> Any:
    """Values as they read back from JSON."""
    return json.loads(json.dumps(value))


def fingerprint(asked: Any) -> str:
    """SHA-256 over plain values, in hexadecimal: equal where going on is right."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def check_same(
    stored: Mapping[str, Any],
    asked: Mapping[str, Any],
    place: Path,
    kind: str,
    error: type[MIToolkitError],
) -> None:
    """Check that what `place` holds is what is asked for.

    Raises:
        MIToolkitError: of the type `error`; it names what differs, and the way out.
    """
    was, now = dict(_leaves(stored)), dict(_leaves(plain(asked)))
    differences = [
        f"{name} was {_shown(was, name)} and is {_shown(now, name)}"
        for name in dict.fromkeys([*now, *was])
        if name not in was or name not in now or was[name] != now[name]
    ]
    if differences:
        more = len(differences) - MOST_DIFFERENCES
        shown = [*differences[:MOST_DIFFERENCES], *([f"and {more} more"] if more > 0 else [])]
        raise error(
            f"{place} holds another {kind}: {'; '.join(shown)}. Give another place, or delete it "
            "to begin anew."
        )


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping) or not value:
        yield name, value
        return
    for key, each in value.items():
        yield from _leaves(each, f"{name}.{key}" if name else str(key))


def _shown(values: Mapping[str, Any], name: str) -> str:
    return reprlib.repr(values[name]) if name in values else "not there"


@dataclass(frozen=True, kw_only=True)
class WrittenFile:
    """A file as it was written."""

    bytes: int
    """Size of the file."""

    sha256: str
    """SHA-256 of the file's bytes, in hexadecimal."""

    @staticmethod
    def of(path: Path) -> WrittenFile:
        """A file as it is now."""
        return WrittenFile(bytes=path.stat().st_size, sha256=file_digest(path))


@dataclass(frozen=True, kw_only=True)
class Part:
    """A finished part of the work in a folder."""

    settings: Mapping[str, Any]
    """Arguments that the part was made with, next to those that all parts share."""

    files: Mapping[str, WrittenFile]
    """The files that the part wrote, by path within the folder."""

    facts: Mapping[str, Any]
    """Further plain values kept with the part."""

    def damage(self, folder: Path, *, by_content: bool) -> Iterator[str]:
        """What is wrong with its files: missing, of another size or, if asked, other bytes."""
        for name, file in self.files.items():
            path = folder / name
            if not path.is_file():
                yield f"{path} is missing"
            elif (size := path.stat().st_size) != file.bytes:
                yield (
                    f"{path} is damaged: it has {size:,} bytes, and was written with {file.bytes:,}"
                )
            elif by_content and (found := file_digest(path)) != file.sha256:
                yield (
                    f"{path} is damaged: its SHA-256 is {found[:16]}…, and it was written with "
                    f"{file.sha256[:16]}…"
                )


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a folder says that it holds."""

    format: str
    """What the work is, and its version, such as `mi_toolkit sensitivity run 1`."""

    about: Mapping[str, Any]
    """What every part rests on."""

    parts: Mapping[str, Part]
    """Those that are finished, in the order in which they were."""

    @staticmethod
    def read(
        path: Path, *, format: str, kind: str, error: type[MIToolkitError] = ReportError
    ) -> Manifest:
        """Read one.

        Raises:
            MIToolkitError: of the type `error`: there is none, or one of something else.
        """
        if not path.is_file():
            raise error(f"{path.parent} holds no {kind}: it has no {path.name}.")
        record = read_json(path, error)
        if record.get("format") != format:
            raise error(f"{path} is of no {kind}, or of another version. Choose another folder.")
        with fields_fit(path, kind, error):
            return structured(record, Manifest)

    def write(self, path: Path) -> None:
        """Write it, whole or not at all."""
        with atomic_write(path) as draft:
            text = json.dumps(asdict(self), indent=1, ensure_ascii=False)
            draft.write_text(text + "\n", encoding="utf-8")


class ResumableFolder:
    """A folder that fills part by part."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        about: Mapping[str, Any],
        *,
        format: str,
        kind: str,
        file: str = FILE,
        error: type[MIToolkitError] = ReportError,
    ) -> None:
        """Open the folder, or one that is to be made; drafts of a killed run are removed.

        Args:
            path: where.
            about: what every part rests on, as plain values.
            format: what the work is, and its version.
            kind: what it is called in an error, such as `sensitivity run`.
            file: the name of the manifest.
            error: what is raised where the folder holds something else.

        Raises:
            MIToolkitError: of the type `error`: the folder holds something else.
        """
        self.path, self._file = Path(path), Path(path) / file
        self.manifest = Manifest(format=format, about=plain(about), parts={})
        if self._file.is_file():
            stored = Manifest.read(self._file, format=format, kind=kind, error=error)
            check_same(stored.about, self.manifest.about, self.path, kind, error)
            self.manifest = stored
        remove_drafts(self.path)

    def has(self, name: str, settings: Mapping[str, Any]) -> bool:
        """Whether a part was made with these settings, and its files are as they were written."""
        part = self.manifest.parts.get(name)
        return (
            part is not None
            and part.settings == plain(settings)
            and not any(part.damage(self.path, by_content=True))
        )

    def enter(
        self, name: str, settings: Mapping[str, Any], files: Iterable[str], **facts: Any
    ) -> None:
        """Enter a part whose files are written: from now on it is finished."""
        written = {file: WrittenFile.of(self.path / file) for file in files}
        part = Part(settings=plain(settings), files=written, facts=plain(facts))
        entered = replace(self.manifest, parts={**self.manifest.parts, name: part})
        entered.write(self._file)
        self.manifest = entered

    def write(self) -> None:
        """Write the manifest: `enter` does; by itself for a folder without a part."""
        self.manifest.write(self._file)


class Checkpoint:
    """How far one piece of work is: its tensors in one file, which is replaced as it goes on."""

    def __init__(self, path: Path, asked: Mapping[str, Any], *, format: str, kind: str) -> None:
        self.path, self.asked = path, plain(asked)
        self._format, self._kind = format, kind
        self._next_save = 0.0

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The tensors and the record that an earlier run saved; None where there was none.

        What a run that was killed in the midst of a save left is removed.

        Raises:
            ReportError: the file is of something else, or is damaged.
        """
        written = self.path.resolve()  # through a link, the drafts of the file that it leads to
        remove_drafts(written.parent, of=written.name)
        if not self.path.exists():
            return None
        tensors, kept = load_record(self.path, format=self._format, kind=self._kind)
        with fields_fit(self.path, self._kind):
            check_same(kept["asked"], self.asked, self.path, self._kind, ReportError)
            record: dict[str, Any] = kept["record"]
        return tensors, record

    @property
    def is_due(self) -> bool:
        """Whether enough was done since the last save for the next one to be cheap."""
        return time.monotonic() >= self._next_save

    def save(self, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """Replace the file, whole or not at all."""
        start = time.monotonic()
        kept = {"asked": self.asked, "record": dict(record)}
        save_record(self.path, format=self._format, tensors=tensors, record=kept)
        stop = time.monotonic()
        self._next_save = stop + PAUSE * (stop - start)
