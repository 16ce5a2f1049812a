"""Where a recording begins: in a new folder, or behind what an earlier run left."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mi_toolkit.activations.errors import StoreError
from mi_toolkit.activations.store.checks import check_files
from mi_toolkit.activations.store.manifest import (
    FILE,
    Manifest,
    check_same,
    read_manifest,
)

FOLDERS = ("shards", "index")


def begun(folder: Path, asked: Manifest, *, resume: bool) -> Manifest:
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
    with told(asked, folder):
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
def told(manifest: Manifest, folder: Path) -> Iterator[None]:
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
