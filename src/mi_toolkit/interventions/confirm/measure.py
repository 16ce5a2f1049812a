"""All runs of a confirmation, one after the other: with a bar, and resumed where they stopped."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from mi_toolkit.errors import ReportError
from mi_toolkit.hooked_model import weights_digest
from mi_toolkit.interventions.confirm.losses import LossRuns, prepared
from mi_toolkit.progress import track
from mi_toolkit.record_file import load_record, save_record

FORMAT = "mi_toolkit ablation losses 1"


def measure(
    runs: Sequence[LossRuns], *, resume: str | os.PathLike[str] | None, progress: bool | None
) -> None:
    """Fill in the losses of every run.

    Args:
        runs: what to run, with one kind of ablation and one reference.
        resume: a folder that takes each sequence's losses as soon as they are there, and gives
            them back to a later call that asks for the very same; None keeps nothing.
        progress: a progress bar, None where somebody looks.
    """
    folder = None if resume is None else Path(resume)
    checksum = "" if folder is None or not runs else weights_digest(runs[0].model)
    # Lazily: where everything is kept, nothing is prepared.
    prepare = cache(lambda: prepared(runs))
    for run in runs:
        run.share(prepare)
    todo = [(run, folder and folder / f"{_key(run, checksum)}.safetensors") for run in runs]
    total = sum(len(run.chunks) * len(_restored(run, path)) for run, path in todo)
    passes = (None for run, path in todo for _ in _passes(run, path))
    for _ in track(passes, total=total, label="ablating heads", unit="pass", show=progress):
        pass


def _passes(run: LossRuns, path: Path | None) -> Iterator[None]:
    for sequence in _missing(run):
        yield from run.run(sequence)
        if path is not None:
            save_record(path, format=FORMAT, tensors={"losses": run.losses}, record={})


def _restored(run: LossRuns, path: Path | None) -> list[int]:
    """Take what is kept of a run, and say which sequences are missing."""
    if path is not None and path.exists():
        kept, _ = load_record(path, format=FORMAT, kind="kept losses")
        if kept["losses"].shape != run.losses.shape:
            raise ReportError(f"{path} holds the losses of another run: remove it.")
        run.losses.copy_(kept["losses"])
    return _missing(run)


def _missing(run: LossRuns) -> list[int]:
    return [
        sequence
        for sequence, place in enumerate(run.places)
        if bool(run.losses[:, place].isnan().any())
    ]


def _key(run: LossRuns, checksum: str) -> str:
    asked = {
        "weights": checksum,
        "batch": run.batch.digest,
        "queries": run.queries.nonzero().tolist(),
        "sets": [[tuple(head) for head in heads] for heads in run.sets],
        "how": run.how,
        "reference": None if run.reference is None else run.reference.digest,
    }
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
