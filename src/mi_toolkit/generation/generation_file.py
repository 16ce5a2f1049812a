"""A generation on disk: ids and log-probabilities as tensors, the rest as a record."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from torch import Tensor

from mi_toolkit.generation.beam_tree import BeamTree
from mi_toolkit.generation.generation import GeneratedSequence, Generation
from mi_toolkit.provenance import Provenance
from mi_toolkit.record_file import load_record, save_record

FORMAT = "mi_toolkit generation 1"

_SEQUENCE_TENSORS = ("ids", "log_probs", "alternative_ids", "alternative_log_probs")


def save_generation(generation: Generation, path: str | os.PathLike[str]) -> None:
    """Write a generation, whole or not at all."""
    tensors = {"prompt_ids": generation.prompt_ids}
    for field in fields(BeamTree):
        tensors[f"tree/{field.name}"] = getattr(generation.tree, field.name)
    for index, sequence in enumerate(generation.sequences):
        for name in _SEQUENCE_TENSORS:
            tensors[f"{index}/{name}"] = getattr(sequence, name)
    save_record(path, format=FORMAT, tensors=tensors, record=record(generation))


def record(generation: Generation) -> dict[str, Any]:
    """What is not a tensor, as plain values that JSON can hold."""
    plain = {
        field.name: getattr(generation, field.name)
        for field in fields(generation)
        if field.name not in ("prompt_ids", "sequences", "tree", "texts", "provenance")
    }
    sequences = [
        {
            field.name: getattr(sequence, field.name)
            for field in fields(sequence)
            if field.name not in _SEQUENCE_TENSORS
        }
        for sequence in generation.sequences
    ]
    return {
        **plain,
        "sequences": sequences,
        "texts": {str(token): text for token, text in generation.texts.items()},
        "provenance": asdict(generation.provenance),
    }


def load_generation(path: str | os.PathLike[str]) -> Generation:
    """Read a generation back.

    Raises:
        ReportError: no such file, or it holds no generation.
    """
    tensors, stored = load_record(path, format=FORMAT, kind="generation")
    sequences = tuple(
        _sequence(kept, tensors, index) for index, kept in enumerate(stored.pop("sequences"))
    )
    tree = BeamTree(**{field.name: tensors[f"tree/{field.name}"] for field in fields(BeamTree)})
    read: dict[str, Any] = {
        "texts": {int(token): text for token, text in stored.pop("texts").items()},
        "eos_ids": tuple(stored.pop("eos_ids")),
        "hooks": tuple(stored.pop("hooks")),
        "provenance": Provenance(**stored.pop("provenance")),
    }
    return Generation(
        **stored, **read, prompt_ids=tensors["prompt_ids"], sequences=sequences, tree=tree
    )


def _sequence(kept: dict[str, Any], tensors: Mapping[str, Tensor], index: int) -> GeneratedSequence:
    read: dict[str, Any] = {name: tensors[f"{index}/{name}"] for name in _SEQUENCE_TENSORS}
    return GeneratedSequence(**kept, **read)
