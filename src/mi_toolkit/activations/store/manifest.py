"""The manifest of a store: what was recorded, how, how far, and the checksum of every shard.

It is replaced whole after each shard, so that it never names a shard that is not there: what a
killed run leaves behind is a store of the shards until then.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mi_toolkit.activations.errors import StoreError
from mi_toolkit.activations.feed import START, Place
from mi_toolkit.files import written_whole
from mi_toolkit.provenance import installed_versions

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

    place: Place = START
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
        with written_whole(folder / FILE) as draft:
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
    place = Place(**record.pop("place"))
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
