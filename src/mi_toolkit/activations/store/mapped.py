"""The rows of a store as one long table, though they lie in many mapped files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from mi_toolkit.activations.errors import StoreError
from mi_toolkit.activations.store.manifest import Manifest
from mi_toolkit.activations.store.shard_file import map_shard

OPEN_SHARDS = 256
"""How many stay mapped at once: each takes a file descriptor."""


class MappedShards:
    """Rows by their numbers; only what is asked for comes from the disk."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        ends = np.cumsum([shard.rows for shard in manifest.shards], dtype=np.int64)
        self._starts = np.concatenate([[0], ends])
        self._open: dict[int, dict[str, Tensor]] = {}

    def slice(self, hook: str, start: int, stop: int) -> Tensor:
        """Consecutive rows of one activation."""
        parts = [
            self._shard(number)[hook][max(0, start - first) : stop - first]
            for number, first in enumerate(self._starts[:-1].tolist())
            if first < stop and start < self._starts[number + 1]
        ]
        return torch.cat(parts) if parts else self._none(hook)

    def gather(self, hook: str, rows: Int[Tensor, " row"]) -> Tensor:
        """Rows of one activation in the order given: shard by shard, each mapped once.

        Raises:
            StoreError: there is no such row.
        """
        n_rows = self.manifest.rows
        if len(rows) and not (int(rows.min()) >= 0 and int(rows.max()) < n_rows):
            raise StoreError(f"Rows of this store are 0 to {n_rows - 1}.")
        values = self._none(hook).new_empty(len(rows), *self.manifest.shapes[hook])
        shard_of = np.searchsorted(self._starts, rows.numpy(), side="right") - 1
        for number in np.unique(shard_of):
            here = torch.from_numpy((shard_of == number).nonzero()[0])
            within = rows[here] - int(self._starts[number])
            values[here] = self._shard(int(number))[hook][within]
        return values

    def _none(self, hook: str) -> Tensor:
        dtype = getattr(torch, self.manifest.settings["dtype"])
        return torch.empty(0, *self.manifest.shapes[hook], dtype=dtype)

    def _shard(self, number: int) -> dict[str, Tensor]:
        if number not in self._open:
            while len(self._open) >= OPEN_SHARDS:
                self._open.pop(next(iter(self._open)))
            path = self.folder / self.manifest.shards[number].tensors.path
            self._open[number] = map_shard(path)
        return self._open[number]

    def __getstate__(self) -> dict[str, Any]:
        """Another process maps the shards for itself."""
        return {**self.__dict__, "_open": {}}
