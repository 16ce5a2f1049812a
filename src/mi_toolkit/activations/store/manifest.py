"""What a store holds: a manifest of the resumable kind, whose parts are shards.

Each shard is a part with two files, the number of its rows, and the place in the texts after it.
Where the texts ended, a last part without a file says so.

One shard: a safetensors file, written block by block and read where it lies.

Written by hand, as the library's `save_file` wants each tensor whole: the blocks of a shard would
be copied together, then turned into bytes, and take three times its size. The format is the
library's own (a length, a JSON header, the tensors one after the other), and it reads the files.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mi_toolkit.activations.batcher import START, Cursor
from mi_toolkit.core import resumable
from mi_toolkit.core.errors import StoreError
from mi_toolkit.core.io import refusal
from mi_toolkit.core.result import fields_fit, structured
from mi_toolkit.core.resumable import FILE, Part, ResumableFolder

FORMAT, KIND = "mi_toolkit activation store 2", "recording of activations"
FOLDERS = ("shards", "index")
END = "end"
"""The part that says that the texts ended."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Some consecutive rows of every activation."""

    rows: int
    """How many."""

    tensors: str
    """The file of the activations within the store, in safetensors."""

    index: str
    """The file that says what each row is, in Parquet."""


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

    versions: Mapping[str, str]
    """Installed when it was recorded."""

    parts: Mapping[str, Part]
    """The shards as they are kept, and the end."""

    @staticmethod
    def of(kept: resumable.Manifest) -> Manifest:
        """A manifest as it is kept."""
        return Manifest(**kept.about, parts=kept.parts)

    @property
    def place(self) -> Cursor:
        """How far the texts have been recorded."""
        *_, place = START, *(Cursor(**part.facts["place"]) for part in self.parts.values())
        return place

    @property
    def complete(self) -> bool:
        """Whether the texts ended there."""
        return END in self.parts

    @cached_property
    def shards(self) -> tuple[Shard, ...]:
        """The finished shards, in the order of their rows."""
        return tuple(
            Shard(rows=part.facts["rows"], tensors=tensors, index=index)
            for part in self.parts.values()
            if part.files
            for tensors, index in [part.files]
        )

    @property
    def rows(self) -> int:
        """Rows of all shards."""
        return sum(shard.rows for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Bytes of all shards and their index."""
        return sum(f.bytes for part in self.parts.values() for f in part.files.values())


def read_manifest(folder: Path) -> Manifest:
    """The manifest in `folder`.

    Raises:
        StoreError: there is none, or it is none of ours.
    """
    if not (folder / FILE).is_file():
        raise StoreError(
            f"There is no store of activations in {folder}: it has no {FILE}. One file, as "
            "Activations.save writes it, opens with Activations.load."
        )
    kept = resumable.Manifest.read(folder / FILE, format=FORMAT, kind=KIND, error=StoreError)
    with fields_fit(folder / FILE, KIND, StoreError):
        about = structured({**kept.about, "parts": {}}, Manifest)
        manifest = replace(about, parts=kept.parts)
        torch.empty(0, dtype=getattr(torch, manifest.settings["dtype"]))
        if any(size < 0 for shape in manifest.shapes.values() for size in shape):
            raise ValueError("a size below 0")
        structured(manifest.model["name"], str)
        structured(manifest.settings["max_length"], int)
        structured(manifest.settings["overlong"], str)
        structured(vars(manifest.place), Cursor)
        structured([vars(shard) for shard in manifest.shards], list[Shard])
    return manifest


def check_files(manifest: Manifest, folder: Path, *, by_content: bool = False) -> None:
    """Check that every file is there and as long as it was written, or, reading it, the same.

    Raises:
        StoreError: it names the first that is not; by content, every one.
    """
    damage = (
        each
        for part in manifest.parts.values()
        for each in part.damage(folder, by_content=by_content)
    )
    if damaged := list(damage if by_content else itertools.islice(damage, 1)):
        raise StoreError(
            f"{'; '.join(damaged)}. Bring it back from a copy, or record again to another folder; "
            "the other shards are whole files of safetensors and Parquet."
        )


def open_or_create(folder: Path, about: Mapping[str, Any], *, resume: bool) -> ResumableFolder:
    """The folder to go on in; its manifest is written, where nothing has been recorded yet."""
    begun = (folder / FILE).exists()
    if begun and not resume:
        raise StoreError(
            f"{folder} holds a recording already: with resume=True it goes on, or record to "
            "another folder."
        )
    kept = ResumableFolder(folder, about, format=FORMAT, kind=KIND, error=StoreError)
    if begun:
        check_files(Manifest.of(kept.manifest), folder)
        _clear_leftovers(kept)
    else:
        if folder.exists() and not folder.is_dir():
            raise StoreError(f"{folder} is a file: give the name of a folder.")
        # A run that goes on clears these of what it did not enter.
        if taken := [name for name in FOLDERS if (folder / name).exists()]:
            raise StoreError(
                f"{folder / taken[0]} is there, and of no recording to go on with. Choose another "
                "folder."
            )
        with disk_errors(kept):
            kept.write()
    return kept


def _clear_leftovers(kept: ResumableFolder) -> None:
    """Remove the files of a shard that a killed run wrote and did not enter."""
    entered = {kept.path / file for part in kept.manifest.parts.values() for file in part.files}
    for name in FOLDERS:
        for path in (kept.path / name).glob("*"):
            if path not in entered:
                path.unlink()


@contextmanager
def disk_errors(kept: ResumableFolder) -> Iterator[None]:
    """Within it, a full disk is reported with what is recorded and can still be read."""
    try:
        yield
    except OSError as error:
        recorded = Manifest.of(kept.manifest)
        raise StoreError(
            f"{kept.path} cannot be written: {refusal(error)}. {recorded.rows:,} rows of "
            f"{recorded.place.documents:,} documents are recorded and can be read; with room on "
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


def write_shard(path: Path, blocks: Mapping[str, Sequence[Tensor]]) -> None:
    """Write tensors given as blocks of rows."""
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
    with path.open("wb") as file:
        for part in itertools.chain([len(text).to_bytes(8, "little"), text], _bytes(blocks)):
            file.write(part)


def _bytes(blocks: Mapping[str, Sequence[Tensor]]) -> Iterator[memoryview | bytes]:
    for parts in blocks.values():
        for part in parts:
            if part.numel():
                yield part.contiguous().flatten().view(torch.uint8).numpy().data


def map_shard(path: Path) -> dict[str, Tensor]:
    """The tensors of a shard, mapped: what is not looked at is not read.

    The map is private: writing into a tensor changes nothing on disk.

    Raises:
        StoreError: it is damaged.
    """
    with fields_fit(path, "shard", StoreError):
        return _mapped(path)


def _mapped(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            raise ValueError("its header is longer than the file")
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
