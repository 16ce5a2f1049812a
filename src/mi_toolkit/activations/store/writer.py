"""Record activations of a text collection on disk, in shards.

1. The manifest is written, or read where a run is to go on; what a killed run left is cleared away.
2. Batch after batch runs, and its rows wait in memory until they fill a shard.
3. A shard is written beside its place, renamed into it, and then entered into the manifest.

Shards end where batches end, and batches depend on the documents alone: a run that goes on behind
the last shard in the manifest makes the same files, bit for bit, as one that was never stopped.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mi_toolkit.activations.documents import Texts, n_documents
from mi_toolkit.activations.feed import Feed, Overlong, feeding
from mi_toolkit.activations.hooks import activation_names
from mi_toolkit.activations.keep import DEFAULT_BATCH_SIZE
from mi_toolkit.activations.names import Names
from mi_toolkit.activations.positions import Positions
from mi_toolkit.activations.store.begin import begun
from mi_toolkit.activations.store.identity import model_identity
from mi_toolkit.activations.store.manifest import (
    Manifest,
)
from mi_toolkit.activations.store.recording import Recording, named
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.process_state import one_job
from mi_toolkit.progress import track

if TYPE_CHECKING:
    from mi_toolkit.activations.store.reader import ActivationStore


@one_job
def record_to_disk(
    model: HookedModel,
    texts: Texts,
    names: Names,
    path: str | os.PathLike[str],
    *,
    batch_size: int = DEFAULT_BATCH_SIZE,
    shard_size: int | None = None,
    dtype: torch.dtype = torch.float32,
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
    from mi_toolkit.activations.store.reader import open_activations

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
        "dtype": str(dtype).removeprefix("torch."),
        "batch_size": batch_size,
        "shard_size": recording.rows_to_a_shard(shard_size),
        **how.settings,
    }
    asked = Manifest(
        model=model_identity(model),
        settings=settings,
        shapes=recording.shapes,
        n_layers=int(model.cfg.n_layers),
    )
    manifest = begun(folder, asked, resume=resume)
    feed = Feed(model, texts, how, field, manifest.place)
    total = n_documents(texts)
    batches = track(
        feed.batches(batch_size),
        total=None if total is None else -(-max(0, total - feed.start.documents) // batch_size),
        label="recording",
        unit="batch",
        show=progress,
    )
    recording.run(batches, manifest, feed)
    return open_activations(folder)
