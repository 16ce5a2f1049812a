"""Recorded activations on disk: one safetensors file, its record as JSON in the header."""

from __future__ import annotations

import json
import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mi_toolkit.activations.activations import Activations
from mi_toolkit.activations.errors import ActivationsError
from mi_toolkit.activations.positions import ChosenPositions
from mi_toolkit.files import written_whole
from mi_toolkit.prompts.tokens import TokenBatch

FORMAT = "mi_toolkit activations 1"
_PROMPTS = ("prompts/ids", "prompts/lengths", "prompts/positions")


def save_activations(activations: Activations, path: str | os.PathLike[str]) -> None:
    """Write activations, whole or not at all."""
    batch = activations.batch
    own = (batch.ids, batch.lengths, activations.positions)
    # A hook may be shown under two names; safetensors wants every tensor to have its own memory.
    tensors = {name: tensor.contiguous() for name, tensor in activations.tensors.items()}
    tensors |= {name: tensor.contiguous() for name, tensor in zip(_PROMPTS, own, strict=True)}
    record = {
        "model": activations.model,
        "n_layers": activations.n_layers,
        "names": list(activations.tensors),
        "single": activations.chosen.single,
        "bos_id": batch.bos_id,
        "texts": activations.texts,
    }
    with written_whole(path) as draft:
        save_file(tensors, draft, metadata={"format": FORMAT, "record": json.dumps(record)})


def load_activations(path: str | os.PathLike[str]) -> Activations:
    """Read activations back.

    Raises:
        ActivationsError: no such file, or it holds no activations.
    """
    if not Path(path).is_file():
        raise ActivationsError(
            f"There is no file {path}. A folder that record_to_disk wrote opens with "
            "open_activations."
        )
    try:
        with safe_open(path, framework="pt") as stored:
            metadata = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ActivationsError(f"{path} is no safetensors file, or is damaged: {error}.") from error
    if metadata.get("format") != FORMAT:
        raise ActivationsError(
            f"{path} is a safetensors file, but holds no activations of this version "
            f"({metadata.get('format', 'no format named')}; wanted {FORMAT!r})."
        )
    record = json.loads(metadata["record"])
    ids, lengths, positions = (tensors[name] for name in _PROMPTS)
    return Activations(
        model=record["model"],
        n_layers=record["n_layers"],
        tensors={name: tensors[name] for name in record["names"]},
        batch=TokenBatch(ids=ids, lengths=lengths, bos_id=record["bos_id"]),
        chosen=ChosenPositions(table=positions, single=record["single"]),
        texts=tuple(tuple(texts) for texts in record["texts"]),
    )
