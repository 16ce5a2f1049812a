"""Whether the files of a store are what was written."""

from __future__ import annotations

from pathlib import Path

from mi_toolkit.activations.errors import StoreError
from mi_toolkit.activations.store.manifest import File, Manifest
from mi_toolkit.files import file_digest

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
