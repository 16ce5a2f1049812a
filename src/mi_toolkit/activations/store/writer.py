"""Record activations of a text collection on disk, in shards.

1. The manifest is written, or read where a run is to go on; what a killed run left is cleared away.
2. Batch after batch runs, and its rows wait in memory until they fill a shard.
3. A shard is written next to its place, renamed into it, and then entered into the manifest.

Shards end where batches end, and batches depend on the documents alone: a run that goes on after
the last shard in the manifest makes the same files, bit for bit, as one that was never stopped.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from mi_toolkit.activations.batcher import (
    Batcher,
    Cursor,
    FedBatch,
    Overlong,
    Texts,
    feeding,
)
from mi_toolkit.activations.hooks import (
    DEFAULT_BATCH_SIZE,
    ChosenPositions,
    Positions,
    activation_names,
    choose_positions,
    kept_dtype,
    visit_rows,
)
from mi_toolkit.activations.names import Names, is_pattern
from mi_toolkit.activations.store.manifest import (
    END,
    Manifest,
    disk_errors,
    open_or_create,
    write_shard,
)
from mi_toolkit.activations.store.reader import open_activations
from mi_toolkit.core.errors import ActivationsError, PromptError, StoreError
from mi_toolkit.core.io import atomic_write
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.parquet import write_columns
from mi_toolkit.core.process_state import one_job
from mi_toolkit.core.provenance import installed_versions
from mi_toolkit.core.resumable import ResumableFolder
from mi_toolkit.core.tokens import TokenBatch
from mi_toolkit.models.describe import model_identity
from mi_toolkit.models.memory_use import SHARD_BYTES

if TYPE_CHECKING:
    from mi_toolkit.activations.store.reader import ActivationStore


INDEX_COLUMNS = ("document", "chunk", "position", "token")


class Recording:
    """One run: rows wait here until they fill a shard."""

    def __init__(
        self,
        model: HookedModel,
        names: tuple[str, ...],
        folder: Path,
        *,
        dtype: str | torch.dtype,
        positions: Positions,
        batch_size: int,
    ) -> None:
        if batch_size < 1:
            raise PromptError(f"batch_size is the number of sequences to a pass, not {batch_size}.")
        self.model, self.names, self.folder = model, names, folder
        self.dtype, self.positions = kept_dtype(dtype), positions
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

    def run(self, batches: Iterator[FedBatch], kept: ResumableFolder, feed: Batcher) -> None:
        """Record all batches, and close the store."""
        manifest = Manifest.of(kept.manifest)
        if manifest.complete:
            self._check_nothing_follows(batches, manifest)
            return
        for fed in batches:
            self._record(fed)
            if self._waiting >= self.shard_size:
                self._write_shard(kept, fed.place)
        if self._waiting:
            self._write_shard(kept, feed.end)
        with disk_errors(kept):
            kept.enter(END, {}, [], place=dataclasses.asdict(feed.end))

    def _check_nothing_follows(self, batches: Iterator[FedBatch], manifest: Manifest) -> None:
        if next(batches, None) is not None:
            raise StoreError(
                f"{self.folder} is complete, with {manifest.place.documents} documents, and the "
                "texts go on: record the others to another folder."
            )

    def _record(self, fed: FedBatch) -> None:
        chosen = choose_positions(self.positions, fed.batch.lengths).once()

        def take(name: str, rows: Tensor) -> None:
            self._blocks.setdefault(name, []).append(rows)

        visit_rows(self.model, fed.batch, self.names, chosen, self.dtype, take)
        self._index.append(_index_rows(fed, chosen))
        self._waiting += self._index[-1].shape[1]

    def _write_shard(self, kept: ResumableFolder, place: Cursor) -> None:
        name = f"{len(kept.manifest.parts):05}"
        tensors, index = f"shards/{name}.safetensors", f"index/{name}.parquet"
        with disk_errors(kept):
            with atomic_write(self.folder / tensors) as draft:
                write_shard(draft, {name: self._blocks[name] for name in self.names})
            columns = np.concatenate(self._index, axis=1)
            with atomic_write(self.folder / index) as draft:
                write_columns(draft, dict(zip(INDEX_COLUMNS, columns, strict=True)))
            rows, after = self._waiting, dataclasses.asdict(place)
            kept.enter(name, {}, [tensors, index], rows=rows, place=after)
        self._blocks, self._index, self._waiting = {}, [], 0


def _index_rows(fed: FedBatch, chosen: ChosenPositions) -> Int[np.ndarray, "column row"]:
    """Document, piece of it, position and token of each row of a batch."""
    sequence, position, _ = chosen.cells()
    document, chunk = torch.tensor(fed.document), torch.tensor(fed.chunk)
    token = fed.batch.ids[sequence, position]
    return torch.stack([document[sequence], chunk[sequence], position, token]).numpy()


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


@one_job
def record_to_disk(
    model: HookedModel,
    texts: Texts,
    names: Names,
    path: str | os.PathLike[str],
    *,
    batch_size: int = DEFAULT_BATCH_SIZE,
    shard_size: int | None = None,
    dtype: str | torch.dtype = torch.float32,
    positions: Positions = None,
    max_length: int | None = None,
    overlong: Overlong = "split",
    prepend_bos: bool | None = None,
    field: str = "text",
    resume: bool = True,
    progress: bool | None = None,
    allow_nan: bool = False,
) -> ActivationStore:
    """Record the named activations of a text collection in a folder, a row per token.

    Memory holds one batch's pass and one shard. A run that was stopped, by Ctrl-C, a full disk or
    a power cut, goes on where it stopped when it is called again with the same arguments, and the
    folder ends up as if it had never stopped. Everything that the values rest on is compared
    first; the texts are compared by a digest of all that were read.

    Attention patterns cannot be recorded to disk: a row of one is as long as its sequence, and
    rows of one width are what makes slices and shuffled reading cheap. Padded to the context they
    would take `n_heads × context` values per token and layer. Record them in memory.

    Args:
        model: a HookedTransformer or a TransformerBridge; it is left as it was.
        texts: texts or token ids in a list or an iterator, a `datasets` object (streaming too),
            or the path of a `.txt` (a document per line), `.jsonl` or `.parquet` file. They are
            read one by one.
        names: as for `record`.
        path: the folder; it is made.
        batch_size: sequences to a pass.
        shard_size: rows after which a shard is closed, at the end of a batch; None: as many as
            take 256 MiB.
        dtype: what the values are kept in.
        positions: as for `record`, but not a list for each document.
        max_length: tokens of the longest sequence, BOS included; None: the model's context.
        overlong: what becomes of a longer document: `"split"` into sequences that each begin
            with the BOS, `"truncate"`, or `"error"`.
        prepend_bos: put a BOS before each text; None: as the model was trained to read it.
        field: where texts come as records, the field with the text (or the token ids).
        resume: go on where an earlier run stopped; False: an error if there was one.
        progress: a progress bar; None: where somebody looks and it takes long.
        allow_nan: take activations that are NaN or infinite as they are.

    Raises:
        UnknownNameError: a name stands for no hook of this model.
        HookError: a hook did not fire, or is switched off.
        NotFiniteError: an activation is NaN or infinite; the message names the first module.
        PromptError: a document cannot be fed.
        DtypeError: `dtype` cannot hold the values.
        StoreError: the folder holds another recording, other texts or other files, or the disk
            is full. What was recorded until then can be read.

    Example:
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> texts = ["The cat sat on the mat.", "", "When Mary and John went to the store"]
        >>> mi.record_to_disk(model, texts, ["resid_post"], "store")
        ActivationStore of toy-gpt2: 20 rows of 3 documents (1 empty), 1 shard, 0.04 MB
          blocks.*.hook_resid_post (all layers)  row 20, d_model 128  float32  0.04 MB
    """
    folder = Path(path)
    recording = Recording(
        model,
        activation_names(model, names),
        folder,
        dtype=dtype,
        positions=positions,
        batch_size=batch_size,
    )
    how = feeding(model, prepend_bos, max_length, overlong)
    settings = {
        "names": list(recording.names),
        "positions": named(positions),
        "dtype": str(recording.dtype).removeprefix("torch."),
        "batch_size": batch_size,
        "shard_size": recording.rows_to_a_shard(shard_size),
        **how.settings,
    }
    about = {
        "model": model_identity(model),
        "settings": settings,
        "shapes": recording.shapes,
        "n_layers": int(model.cfg.n_layers),
        "versions": installed_versions(),
    }
    kept = open_or_create(folder, about, resume=resume)
    feed = Batcher(model, texts, how, field, Manifest.of(kept.manifest).place)
    batches = feed.tracked(batch_size, label="recording", show=progress)
    recording.run(batches, kept, feed)
    return open_activations(folder)
