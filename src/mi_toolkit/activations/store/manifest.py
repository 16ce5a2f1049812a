"""The manifest of a store: what was recorded, how, how far, and the checksum of every shard.

It is replaced whole after each shard, so that it never names a shard that is not there: what a
killed run leaves behind is a store of the shards until then.

One shard: a safetensors file, written block by block and read where it lies.

Written by hand, as the library's `save_file` wants each tensor whole: the blocks of a shard would
be copied together, then turned into bytes, and take three times its size. The format is the
library's own (a length, a JSON header, the tensors one after the other), and it reads the files.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mi_toolkit.activations.batcher import START, Cursor
from mi_toolkit.core.errors import StoreError
from mi_toolkit.core.io import atomic_write, file_digest
from mi_toolkit.core.provenance import installed_versions

FORMAT = "mi_toolkit activation store 1"
FILE = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class File:
    """A file of the store."""

    path: str
    """Within the store."""

    bytes: int
    """Its size."""

    sha256: str
    """Of its bytes, in hexadecimal."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Some consecutive rows of every activation."""

    rows: int
    """How many."""

    tensors: File
    """The activations, in safetensors."""

    index: File
    """What each row is, in Parquet."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a store holds."""

    model: Mapping[str, Any]
    """Name, revision, class, dtype and a digest of the weights of the model that ran."""

    settings: Mapping[str, Any]
    """Everything else that the values rest on: names, positions, precision, batches, cutting."""

    shapes: Mapping[str, list[int]]
    """The shape of one row of each activation, by hook name."""

    n_layers: int
    """Layers of the model."""

    place: Cursor = START
    """How far the texts have been recorded."""

    complete: bool = False
    """Whether the texts ended there."""

    shards: tuple[Shard, ...] = ()
    """In the order of their rows."""

    versions: Mapping[str, str] = dataclasses.field(default_factory=installed_versions)
    """Installed when the recording began."""

    @property
    def rows(self) -> int:
        """Rows of all shards."""
        return sum(shard.rows for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Bytes of all shards and their index."""
        return sum(shard.tensors.bytes + shard.index.bytes for shard in self.shards)

    def write(self, folder: Path) -> None:
        """Put the manifest into `folder`, whole or not at all."""
        record = {"format": FORMAT, **dataclasses.asdict(self)}
        with atomic_write(folder / FILE) as draft:
            draft.write_text(json.dumps(record, indent=1), encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """The manifest in `folder`.

    Raises:
        StoreError: there is none, or it is none of ours.
    """
    path = folder / FILE
    if not path.is_file():
        raise StoreError(
            f"There is no store of activations in {folder}: it has no {FILE}. One file, as "
            "Activations.save writes it, opens with Activations.load."
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StoreError(f"{path} is damaged: {error}.") from error
    if not isinstance(record, dict) or record.pop("format", None) != FORMAT:
        raise StoreError(f"{path} is no manifest of this version (wanted {FORMAT!r}).")
    place = Cursor(**record.pop("place"))
    shards = tuple(
        Shard(rows=each["rows"], tensors=File(**each["tensors"]), index=File(**each["index"]))
        for each in record.pop("shards")
    )
    return Manifest(place=place, shards=shards, **record)


def check_same(stored: Manifest, asked: Manifest, folder: Path) -> None:
    """Check that a recording can go on where a stored one stopped.

    Raises:
        StoreError: it was made with another model or in another way; each difference is named.
    """
    differences = [
        f"{key} was {was.get(key)!r} and is {now.get(key)!r}"
        for was, now in ((stored.model, asked.model), (stored.settings, asked.settings))
        for key in now
        if was.get(key) != now.get(key)
    ]
    if differences:
        raise StoreError(
            f"{folder} holds another recording: {'; '.join(differences)}. Record to another "
            "folder, or with what was used there."
        )


_WAY_OUT = (
    "Bring it back from a copy, or record again to another folder; the other shards are whole "
    "files of safetensors and Parquet."
)


def check_files(manifest: Manifest, folder: Path) -> None:
    """Check that every file is there and as long as it was written; this reads none of them.

    Raises:
        StoreError: the first one that is not.
    """
    for file in _files(manifest):
        path = folder / file.path
        if not path.is_file():
            raise StoreError(f"{path} is missing. {_WAY_OUT}")
        size = path.stat().st_size
        if size != file.bytes:
            raise StoreError(
                f"{path} is damaged: it has {size:,} bytes, and was written with {file.bytes:,}. "
                f"{_WAY_OUT}"
            )


def check_checksums(manifest: Manifest, folder: Path) -> None:
    """Check every file against its checksum.

    Raises:
        StoreError: it names every file that is not what was written.
    """
    check_files(manifest, folder)
    damaged = [
        f"{folder / file.path} is damaged: its SHA-256 is {found[:16]}…, and it was written with "
        f"{file.sha256[:16]}…"
        for file in _files(manifest)
        if (found := file_digest(folder / file.path)) != file.sha256
    ]
    if damaged:
        raise StoreError(f"{'; '.join(damaged)}. {_WAY_OUT}")


def _files(manifest: Manifest) -> list[File]:
    return [file for shard in manifest.shards for file in (shard.tensors, shard.index)]


FOLDERS = ("shards", "index")


def open_or_create(folder: Path, asked: Manifest, *, resume: bool) -> Manifest:
    """The manifest to go on from; written, where nothing has been recorded yet."""
    if (folder / FILE).exists():
        if not resume:
            raise StoreError(
                f"{folder} holds a recording already: with resume=True it goes on, or record to "
                "another folder."
            )
        stored = read_manifest(folder)
        check_same(stored, asked, folder)
        check_files(stored, folder)
        _clear_leftovers(folder, stored)
        return stored
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StoreError(f"{folder} is no empty folder, and holds no recording to go on with.")
    with disk_errors(asked, folder):
        for name in FOLDERS:
            (folder / name).mkdir(parents=True, exist_ok=True)
        asked.write(folder)
    return asked


def _clear_leftovers(folder: Path, manifest: Manifest) -> None:
    """Remove what a killed run wrote and did not enter into the manifest."""
    entered = {file.path for shard in manifest.shards for file in (shard.tensors, shard.index)}
    for name in FOLDERS:
        for path in (folder / name).iterdir():
            if f"{name}/{path.name}" not in entered:
                path.unlink()
    for path in folder.glob(f".{FILE}.*"):
        path.unlink()


@contextmanager
def disk_errors(manifest: Manifest, folder: Path) -> Iterator[None]:
    """A disk that takes no more is told with what can be read all the same."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        reason = "the disk is full" if full else error.strerror or str(error)
        raise StoreError(
            f"{folder} cannot be written: {reason}. {manifest.rows:,} rows of "
            f"{manifest.place.documents:,} documents are recorded and can be read; with room on "
            "the disk the same call goes on from there."
        ) from error


DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""The names that safetensors has for what activations are kept in."""

_CODES = {dtype: code for code, dtype in DTYPES.items()}


def write_shard(path: Path, blocks: Mapping[str, Sequence[Tensor]]) -> tuple[int, str]:
    """Write tensors given as blocks of rows; the file's size in bytes and its SHA-256."""
    header: dict[str, Any] = {}
    offset = 0
    for name, parts in blocks.items():
        end = offset + sum(part.nbytes for part in parts)
        header[name] = {
            "dtype": _CODES[parts[0].dtype],
            "shape": [sum(len(part) for part in parts), *parts[0].shape[1:]],
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    sha, size = hashlib.sha256(), 0
    with path.open("wb") as file:
        for part in itertools.chain([len(text).to_bytes(8, "little"), text], _bytes(blocks)):
            file.write(part)
            sha.update(part)
            size += len(part)
    return size, sha.hexdigest()


def _bytes(blocks: Mapping[str, Sequence[Tensor]]) -> Iterator[memoryview | bytes]:
    for parts in blocks.values():
        for part in parts:
            if part.numel():
                yield part.contiguous().flatten().view(torch.uint8).numpy().data


def map_shard(path: Path) -> dict[str, Tensor]:
    """The tensors of a shard, mapped: what is not looked at is not read.

    The map is private: writing into a tensor changes nothing on disk.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    start = 8 + length
    if path.stat().st_size == start:
        return {name: _empty(entry) for name, entry in header.items()}
    data = torch.from_numpy(np.memmap(path, dtype=np.uint8, mode="c", offset=start))
    return {
        name: data[slice(*entry["data_offsets"])]
        .view(DTYPES[entry["dtype"]])
        .reshape(entry["shape"])
        for name, entry in header.items()
    }


def _empty(entry: Mapping[str, Any]) -> Tensor:
    return torch.empty(entry["shape"], dtype=DTYPES[entry["dtype"]])
