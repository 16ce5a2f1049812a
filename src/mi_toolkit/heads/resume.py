"""A sweep that can be interrupted: the sums of the batches that are done, kept in a file.

The file is whole or not there (it is written next to its place and renamed), so that a process may
be killed at any moment. It names the run that it belongs to, by a digest of model, prompts,
behaviours and seed, and the batches as they were cut: what goes on from it adds up the same numbers
in the same order, and ends with the same bits.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from torch import Tensor

from mi_toolkit.core.errors import ReportError
from mi_toolkit.core.model import weights_digest
from mi_toolkit.core.provenance import installed_versions
from mi_toolkit.core.result import load_record, save_record
from mi_toolkit.heads.behaviours import AnyBehaviour
from mi_toolkit.heads.kinds import MaskBehaviour
from mi_toolkit.heads.stimulus_run import Batch, StimulusRun

FORMAT = "mi_toolkit head sweep 2"

PAUSE = 20
"""How many times as long as saving takes is measured before the next save: 5% of the time."""


class Checkpoint:
    """How far the runs of one sweep are, in memory and, where a path is given, in a file."""

    def __init__(
        self, path: str | os.PathLike[str] | None, runs: Mapping[str, StimulusRun], seed: int
    ) -> None:
        self.path = None if path is None else Path(path)
        self.runs, self.done = runs, dict.fromkeys(runs, 0)
        self._next_save = 0.0
        if self.path is not None:
            self._digest = run_digest(runs, seed)
            if self.path.exists():
                self._restore(self.path)

    def remaining(self) -> list[tuple[str, Batch]]:
        """The batches that are still to be measured, each with its stimulus."""
        return [
            (name, batch)
            for name, run in self.runs.items()
            for batch in run.batches[self.done[name] :]
        ]

    def finished(self, name: str) -> None:
        """Count one more batch of a stimulus, and save if it is time, or all are done."""
        self.done[name] += 1
        if self.path is not None and (time.monotonic() >= self._next_save or not self.remaining()):
            start = time.monotonic()
            self._save(self.path)
            stop = time.monotonic()
            self._next_save = stop + PAUSE * (stop - start)

    def _save(self, path: Path) -> None:
        tensors = {
            f"{name}/{key}": tensor
            for name, run in self.runs.items()
            for key, tensor in run.tensors.items()
        }
        record = {
            "digest": self._digest,
            "done": self.done,
            "batches": {
                name: [[batch.sequences, batch.n_fresh] for batch in run.batches]
                for name, run in self.runs.items()
            },
        }
        save_record(path, format=FORMAT, tensors=tensors, record=record)

    def _restore(self, path: Path) -> None:
        tensors, record = load_record(path, format=FORMAT, kind="sweep")
        if record["digest"] != self._digest:
            raise ReportError(
                f"{path} belongs to another run: its model, prompts, behaviours, seed, batch size "
                "or versions differ. Give another path, or delete the file to begin anew."
            )
        for name, run in self.runs.items():
            run.batches = [
                Batch(sequences=tuple(sequences), n_fresh=n_fresh)
                for sequences, n_fresh in record["batches"][name]
            ]
            run.restore(_below(tensors, f"{name}/"))
        self.done = record["done"]


def run_digest(runs: Mapping[str, StimulusRun], seed: int) -> str:
    """SHA-256 over all that decides the sums: equal where going on is right."""
    described = {
        name: {
            "prompts": run.batch.digest,
            "behaviours": [_format_behaviour(behaviour) for behaviour in run.behaviours],
            "model": [
                run.facts.name,
                run.facts.revision,
                run.facts.dtype,
                type(run.model).__name__,
            ],
            "attention": run.path,
            "batch_size": run.batch_size,
        }
        for name, run in runs.items()
    }
    weights = [weights_digest(run.model) for run in list(runs.values())[:1]]
    told = json.dumps([described, seed, installed_versions(), weights], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def _format_behaviour(behaviour: AnyBehaviour) -> list[str]:
    # Not the functions themselves, whose text differs from process to process.
    by = behaviour.targets if isinstance(behaviour, MaskBehaviour) else behaviour.terms
    function = by.func if isinstance(by, partial) else by
    defined = [getattr(function, name, "") for name in ("__module__", "__qualname__")]
    return [behaviour.name, repr(behaviour.facts), *defined]


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix): tensor
        for key, tensor in tensors.items()
        if key.startswith(prefix)
    }
