"""Rows on their way to the disk: they wait in memory until they fill a shard."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from mi_toolkit.activations.errors import ActivationsError, StoreError
from mi_toolkit.activations.feed import FedBatch, Feed, Place
from mi_toolkit.activations.keep import check_dtype, visit_rows
from mi_toolkit.activations.names import is_pattern
from mi_toolkit.activations.positions import ChosenPositions, Positions, choose_positions
from mi_toolkit.activations.store.begin import told
from mi_toolkit.activations.store.manifest import (
    File,
    Manifest,
    Shard,
)
from mi_toolkit.activations.store.shard_file import write_shard
from mi_toolkit.errors import PromptError
from mi_toolkit.files import file_digest, written_whole
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.parquet import write_columns
from mi_toolkit.prompts.tokens import TokenBatch

SHARD_BYTES = 256 * 2**20
INDEX_COLUMNS = ("document", "chunk", "position", "token")


class Recording:
    """One run: rows wait here until they fill a shard."""

    def __init__(
        self,
        model: HookedModel,
        names: tuple[str, ...],
        folder: Path,
        *,
        dtype: torch.dtype,
        positions: Positions,
        batch_size: int,
    ) -> None:
        check_dtype(dtype)
        if batch_size < 1:
            raise PromptError(f"batch_size is the number of sequences to a pass, not {batch_size}.")
        self.model, self.names, self.folder = model, names, folder
        self.dtype, self.positions = dtype, positions
        named(positions)
        self.shapes = self._shapes()
        self._blocks: dict[str, list[Tensor]] = {}
        self._index: list[np.ndarray] = []
        self._waiting = 0

    def _shapes(self) -> dict[str, list[int]]:
        """The shape of a row of each activation: from a pass over one token, before any text."""
        patterns = [name for name in self.names if is_pattern(name)]
        if patterns:
            raise ActivationsError(
                f"{patterns[0]} cannot be recorded to disk: a row of a pattern is as long as its "
                "sequence, and a store has rows of one width. Record patterns in memory, with "
                "mi_toolkit.record."
            )
        batch = TokenBatch(
            ids=torch.zeros(1, 1, dtype=torch.long), lengths=torch.tensor([1]), bos_id=None
        )
        shapes: dict[str, list[int]] = {}

        def note(name: str, rows: Tensor) -> None:
            shapes[name] = list(rows.shape[1:])

        chosen = choose_positions(None, batch.lengths)
        visit_rows(self.model, batch, self.names, chosen, self.dtype, note)
        return {name: shapes[name] for name in self.names}

    def rows_to_a_shard(self, shard_size: int | None) -> int:
        """Rows after which a shard is closed."""
        if shard_size is not None and shard_size < 1:
            raise PromptError(f"shard_size is a number of rows, 1 or more, not {shard_size}.")
        values = sum(int(np.prod(shape)) for shape in self.shapes.values())
        self.shard_size = shard_size or max(1, SHARD_BYTES // (values * self.dtype.itemsize))
        return self.shard_size

    def run(self, batches: Iterator[FedBatch], manifest: Manifest, feed: Feed) -> None:
        """Record all batches, and close the store."""
        if manifest.complete:
            self._check_nothing_follows(batches, manifest)
            return
        for fed in batches:
            self._record(fed)
            if self._waiting >= self.shard_size:
                manifest = self._write_shard(manifest, fed.place)
        manifest = dataclasses.replace(manifest, complete=True)
        if self._waiting:
            self._write_shard(manifest, feed.end)
        else:
            with told(manifest, self.folder):
                dataclasses.replace(manifest, place=feed.end).write(self.folder)

    def _check_nothing_follows(self, batches: Iterator[FedBatch], manifest: Manifest) -> None:
        if next(batches, None) is not None:
            raise StoreError(
                f"{self.folder} is complete, with {manifest.place.documents} documents, and the "
                "texts go on: record the others to another folder."
            )

    def _record(self, fed: FedBatch) -> None:
        chosen = choose_positions(self.positions, fed.batch.lengths)

        def take(name: str, rows: Tensor) -> None:
            self._blocks.setdefault(name, []).append(rows)

        visit_rows(self.model, fed.batch, self.names, chosen, self.dtype, take)
        self._index.append(_index_rows(fed, chosen))
        self._waiting += self._index[-1].shape[1]

    def _write_shard(self, manifest: Manifest, place: Place) -> Manifest:
        number = f"{len(manifest.shards):05}"
        tensors, index = f"shards/{number}.safetensors", f"index/{number}.parquet"
        with told(manifest, self.folder):
            with written_whole(self.folder / tensors) as draft:
                size, digest = write_shard(draft, {name: self._blocks[name] for name in self.names})
            columns = np.concatenate(self._index, axis=1)
            with written_whole(self.folder / index) as draft:
                write_columns(draft, dict(zip(INDEX_COLUMNS, columns, strict=True)))
            shard = Shard(
                rows=self._waiting,
                tensors=File(path=tensors, bytes=size, sha256=digest),
                index=_file(self.folder, index),
            )
            entered = dataclasses.replace(manifest, shards=(*manifest.shards, shard), place=place)
            entered.write(self.folder)
        self._blocks, self._index, self._waiting = {}, [], 0
        return entered


def _index_rows(fed: FedBatch, chosen: ChosenPositions) -> Int[np.ndarray, "column row"]:
    """Document, piece of it, position and token of each row of a batch."""
    sequence, position, _ = chosen.cells()
    document, chunk = torch.tensor(fed.document), torch.tensor(fed.chunk)
    token = fed.batch.ids[sequence, position]
    return torch.stack([document[sequence], chunk[sequence], position, token]).numpy()


def _file(folder: Path, path: str) -> File:
    whole = folder / path
    return File(path=path, bytes=whole.stat().st_size, sha256=file_digest(whole))


def named(positions: Positions) -> object:
    """The positions as the manifest writes them."""
    if isinstance(positions, slice):
        ends = [positions.start, positions.stop, positions.step]
        return ":".join("" if end is None else str(end) for end in ends)
    if positions is None or isinstance(positions, str | int):
        return positions
    if all(isinstance(position, int) for position in positions):
        return list(positions)
    raise PromptError("Lists of positions for each document go with `record`, in memory.")
