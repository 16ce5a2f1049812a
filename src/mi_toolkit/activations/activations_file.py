"""Recorded activations on disk: tensors and what they are, in one safetensors file."""

from __future__ import annotations

import os

from mi_toolkit.activations.activations import Activations
from mi_toolkit.activations.positions import ChosenPositions
from mi_toolkit.prompts.tokens import TokenBatch
from mi_toolkit.record_file import load_record, save_record

FORMAT = "mi_toolkit activations 1"
_PROMPTS = ("prompts/ids", "prompts/lengths", "prompts/positions")


def save_activations(activations: Activations, path: str | os.PathLike[str]) -> None:
    """Write activations, whole or not at all."""
    batch = activations.batch
    own = (batch.ids, batch.lengths, activations.positions)
    record = {
        "model": activations.model,
        "n_layers": activations.n_layers,
        "names": list(activations.tensors),
        "single": activations.chosen.single,
        "bos_id": batch.bos_id,
        "texts": activations.texts,
    }
    tensors = {**activations.tensors, **dict(zip(_PROMPTS, own, strict=True))}
    save_record(path, format=FORMAT, tensors=tensors, record=record)


def load_activations(path: str | os.PathLike[str]) -> Activations:
    """Read activations back.

    Raises:
        ReportError: no such file, or it holds no activations.
    """
    tensors, record = load_record(path, format=FORMAT, kind="recording of activations")
    ids, lengths, positions = (tensors[name] for name in _PROMPTS)
    return Activations(
        model=record["model"],
        n_layers=record["n_layers"],
        tensors={name: tensors[name] for name in record["names"]},
        batch=TokenBatch(ids=ids, lengths=lengths, bos_id=record["bos_id"]),
        chosen=ChosenPositions(table=positions, single=record["single"]),
        texts=tuple(tuple(texts) for texts in record["texts"]),
    )
