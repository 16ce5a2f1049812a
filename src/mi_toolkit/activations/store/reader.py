"""Read a store of activations: what is asked for, and nothing else, comes from the disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset

from mi_toolkit.activations.names import MEGABYTE, Name, Names, axes_of, resolve, rows_of
from mi_toolkit.activations.store.manifest import (
    Manifest,
    check_files,
    map_shard,
    read_manifest,
)
from mi_toolkit.core.display import TableRepr, TextTable
from mi_toolkit.core.errors import StoreError, UnknownNameError
from mi_toolkit.core.parquet import read_columns
from mi_toolkit.core.tables import frame

if TYPE_CHECKING:
    from mi_toolkit.core.tables import DataFrame


class ActivationDataset(Dataset[Any]):
    """Rows of one activation. An item is a row's values, or what `transform` makes of them.

    A `DataLoader` fetches a batch in one go; each of its workers maps the shards for itself,
    forked or spawned.
    """

    def __init__(
        self,
        store: ActivationStore,
        hook: str,
        *,
        rows: Int[Tensor, " row"] | None = None,
        transform: Callable[[Tensor], Any] | None = None,
    ) -> None:
        self.store, self.hook, self.transform = store, hook, transform
        self.rows = torch.arange(len(store)) if rows is None else rows
        """The row of the store that each item is."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        """One row."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"This dataset has {len(self)} rows, and no {index}.")
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Several rows at once: how a `DataLoader` asks for a batch."""
        values = self.store.read(self.hook, self.rows[list(indices)])
        return [each if self.transform is None else self.transform(each) for each in values]


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
            shard = self.manifest.shards[number]
            found = map_shard(self.folder / shard.tensors)
            wanted = {
                hook: (self._none(hook).dtype, (shard.rows, *shape))
                for hook, shape in self.manifest.shapes.items()
            }
            if wanted != {hook: (each.dtype, (*each.shape,)) for hook, each in found.items()}:
                raise StoreError(f"{self.folder / shard.tensors} is damaged: it holds other rows.")
            self._open[number] = found
        return self._open[number]

    def __getstate__(self) -> dict[str, Any]:
        """Another process maps the shards for itself."""
        return {**self.__dict__, "_open": {}}


INDEX_DTYPES: dict[str, type[np.integer[Any]]] = {
    "document": np.int64,
    "chunk": np.int32,
    "position": np.int32,
    "token": np.int32,
}
"""The columns of the index, in order, and what they are held in."""

Wanted = int | slice | Sequence[int] | None
"""Documents or positions: one, a range, several, or None for all."""


class StoredBatch(NamedTuple):
    """Some rows of one activation."""

    rows: Int[Tensor, " row"]
    """Their numbers in the store: `store.index().iloc[rows]` says what they are."""

    values: Tensor
    """`[row, …]`."""


def open_activations(path: str | os.PathLike[str], *, verify: bool = False) -> ActivationStore:
    """Open a folder that `record_to_disk` wrote; nothing is read until it is asked for.

    A store whose recording was interrupted opens too, with what was recorded until then.

    Args:
        path: the folder.
        verify: read everything, and compare it with its checksums.

    Raises:
        StoreError: there is no store, or a shard is missing or damaged.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    check_files(manifest, folder)
    store = ActivationStore(folder, manifest)
    if verify:
        store.verify()
    return store


class ActivationStore(TableRepr):
    """Activations on disk: rows of tokens, by hook name, in the order of the documents.

    `store[name]` is one activation, mapped; `read` takes rows, documents or positions out of it;
    `batches` and `dataset` go through it shuffled, for probes and sparse autoencoders.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        """Where the store is."""
        self.manifest = manifest
        """Its record: names, shapes, model, texts, and the files with their digests."""
        self._mapped = MappedShards(folder, manifest)

    def __len__(self) -> int:
        """Rows: one for each recorded token."""
        return self.manifest.rows

    @property
    def names(self) -> tuple[str, ...]:
        """The hooks that were recorded."""
        return tuple(self.manifest.shapes)

    @property
    def n_documents(self) -> int:
        """Documents that were read, empty ones among them."""
        return self.manifest.place.documents

    @property
    def complete(self) -> bool:
        """Whether the texts were recorded to their end."""
        return self.manifest.complete

    @property
    def nbytes(self) -> int:
        """Size on disk, in bytes."""
        return self.manifest.bytes

    @property
    def dtype(self) -> torch.dtype:
        """What the values are kept in."""
        return getattr(torch, self.manifest.settings["dtype"])  # type: ignore[no-any-return]

    def resolve(self, names: Names) -> tuple[str, ...]:
        """The hook names here that short forms, globs and hook names stand for.

        Raises:
            UnknownNameError: none.
        """
        owner = f"the store of {self.manifest.model['name']}"
        return resolve(names, list(self.names), self.manifest.n_layers, owner)

    def one(self, name: Name) -> str:
        """The one hook name here that `name` stands for.

        Raises:
            UnknownNameError: none, or several.
        """
        hooks = self.resolve(name)
        if len(hooks) > 1:
            raise UnknownNameError(
                f"{name!r} stands for {len(hooks)} activations of this store: name one, as in "
                f"{hooks[-1]!r}."
            )
        return hooks[0]

    @cached_property
    def _index(self) -> dict[str, Any]:
        paths = [self.folder / shard.index for shard in self.manifest.shards]
        return read_columns(paths, INDEX_DTYPES)

    def index(self) -> DataFrame:
        """What each row is: document, chunk (of a split document), position and token id."""
        return frame(self._index)

    def rows(self, *, document: Wanted = None, position: Wanted = None) -> Int[Tensor, " row"]:
        """The numbers of the rows of some documents, at some positions.

        A position counts from the start of its sequence, BOS included. `position=slice(1, None)`
        leaves out the BOS. From the end of a sequence none can be counted: a store holds the rows
        that were recorded, and not how long each text was.

        Raises:
            StoreError: a document that the store does not have, or a position from the end.
        """
        ends = (position.start, position.stop) if isinstance(position, slice) else ()
        if any(end is not None and end < 0 for end in ends):
            raise StoreError(
                f"Rows are chosen by positions from the start of a text, not from its end as in "
                f"{position}. To leave out or take what is last, record with positions={position}."
            )
        keep = np.ones(len(self), dtype=bool)
        for name, wanted, size in (
            ("document", document, self.n_documents),
            ("position", position, int(self.manifest.settings["max_length"])),
        ):
            if wanted is not None:
                keep &= np.isin(self._index[name], _numbers(wanted, size, name))
        return torch.from_numpy(keep.nonzero()[0])

    def read(
        self,
        name: Name,
        rows: Int[Tensor, " row"] | Sequence[int] | SupportsIndex | slice | None = None,
        *,
        document: Wanted = None,
        position: Wanted = None,
    ) -> Tensor:
        """Rows of one activation, in the order asked for: `[row, …]`.

        Args:
            name: which activation; of several layers, say which.
            rows: their numbers (as `rows` and `batches` give them), one of them, or a slice; None
                for all.
            document: only of these documents.
            position: only at these positions of their sequence.

        Raises:
            UnknownNameError: no such activation, or several.
            StoreError: no such rows or documents.
        """
        hook = self.one(name)
        if document is not None or position is not None:
            if rows is not None:
                raise StoreError("Give rows, or documents and positions, but not both.")
            rows = self.rows(document=document, position=position)
        if rows is None or isinstance(rows, slice):
            start, stop, step = (rows or slice(None)).indices(len(self))
            if step == 1:
                return self._mapped.slice(hook, start, max(start, stop))
            rows = torch.arange(start, stop, step) if (stop - start) * step > 0 else _NO_ROWS
        numbers = torch.as_tensor(rows).reshape(-1)
        if not len(numbers):
            numbers = _NO_ROWS
        if numbers.dtype.is_floating_point or numbers.dtype == torch.bool:
            raise StoreError(
                f"Rows are whole numbers, not {str(numbers.dtype).removeprefix('torch.')}: of a "
                "mask take mask.nonzero().flatten()."
            )
        return self._mapped.gather(hook, numbers)

    def batches(
        self,
        name: Name,
        batch_size: int,
        *,
        rows: Int[Tensor, " row"] | None = None,
        shuffle: bool = True,
        seed: int = 0,
        epochs: int = 1,
        drop_last: bool = False,
    ) -> Iterator[StoredBatch]:
        """Batches of rows of one activation, for training: every row once in each epoch.

        Shuffled across all shards. The order rests on the seed and the epoch alone, and takes 8
        bytes of memory per row.

        Args:
            name: which activation.
            batch_size: rows to a batch.
            rows: only these, such as `store.rows(position=slice(1, None))`; None for all.
            shuffle: False for the order in the store.
            seed: of the order.
            epochs: how many times to go through all rows, each time in another order.
            drop_last: leave out an epoch's last batch where it is smaller.
        """
        if batch_size < 1:
            raise StoreError(f"batch_size={batch_size}: rows to a batch are 1 or more.")
        hook = self.one(name)
        every = torch.arange(len(self)) if rows is None else rows
        generator = torch.Generator().manual_seed(seed)
        for _ in range(epochs):
            order = every[torch.randperm(len(every), generator=generator)] if shuffle else every
            for chosen in order.split(batch_size):
                if len(chosen) == batch_size or (len(chosen) and not drop_last):
                    yield StoredBatch(chosen, self._mapped.gather(hook, chosen))

    def dataset(
        self,
        name: Name,
        *,
        rows: Int[Tensor, " row"] | None = None,
        transform: Callable[[Tensor], Any] | None = None,
    ) -> ActivationDataset:
        """A PyTorch `Dataset` of rows of one activation, for a `DataLoader` with any workers."""
        return ActivationDataset(self, self.one(name), rows=rows, transform=transform)

    def verify(self) -> None:
        """Read everything, and compare it with the checksums of the manifest.

        Raises:
            StoreError: it names every shard that is not what was written.
        """
        check_files(self.manifest, self.folder, by_content=True)

    def text_table(self) -> TextTable:
        """Each activation with its axes, dtype and size."""
        place, n_shards = self.manifest.place, len(self.manifest.shards)
        notes = [f"{place.empty:,} empty"] if place.empty else []
        if place.overlong:
            done = "split" if self.manifest.settings["overlong"] == "split" else "cut"
            notes.append(f"{place.overlong:,} {done}")
        documents = f"{place.documents:,} document{'' if place.documents == 1 else 's'}"
        noted = f" ({', '.join(notes)})" if notes else ""
        unfinished = "" if self.complete else ", not complete"
        title = (
            f"ActivationStore of {self.manifest.model['name']}: {len(self):,} rows of "
            f"{documents}{noted}, {n_shards} shard{'' if n_shards == 1 else 's'}, "
            f"{self.nbytes / MEGABYTE:,.2f} MB{unfinished}"
        )
        sizes = {
            hook: {
                "row": len(self),
                **dict(zip(axes_of(hook, 1 + len(shape))[1:], shape, strict=True)),
            }
            for hook, shape in self.manifest.shapes.items()
        }
        return TextTable(title=title, rows=rows_of(sizes, self.dtype, self.manifest.n_layers))


_NO_ROWS = torch.empty(0, dtype=torch.long)


def _numbers(wanted: int | slice | Sequence[int], size: int, name: str) -> np.ndarray:
    if isinstance(wanted, slice):
        return np.arange(size)[wanted]
    several = [wanted] if isinstance(wanted, int) else list(wanted)
    for number in several:
        if not 0 <= number < size:
            raise StoreError(f"The store has no {name} {number}: they are 0 to {size - 1}.")
    return np.asarray(several, dtype=np.int64)
