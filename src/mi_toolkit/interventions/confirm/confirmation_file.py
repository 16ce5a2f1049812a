"""A confirmation on disk: the random sets and their changes as tensors, the rest as a record."""

from __future__ import annotations

import os
from dataclasses import asdict, fields
from typing import Any

import torch
from torch import Tensor

from mi_toolkit.heads.head import Head
from mi_toolkit.interventions.confirm.confirmation import Confirmation, Trial
from mi_toolkit.interventions.confirm.effect import Effect
from mi_toolkit.provenance import Provenance
from mi_toolkit.record_file import load_record, save_record

FORMAT = "mi_toolkit confirmation 1"


def save_confirmation(confirmation: Confirmation, path: str | os.PathLike[str]) -> None:
    """Write a confirmation, whole or not at all."""
    tensors: dict[str, Tensor] = {}
    for index, trial in enumerate(confirmation.trials):
        sets = [[tuple(head) for head in heads] for heads in trial.random_sets]
        tensors[f"{index}/changes"] = trial.effect.random
        tensors[f"{index}/sets"] = torch.tensor(sets, dtype=torch.long)
    save_record(path, format=FORMAT, tensors=tensors, record=record(confirmation))


def record(confirmation: Confirmation) -> dict[str, Any]:
    """What is not a tensor, as plain values that JSON can hold."""
    return {
        **{
            field.name: getattr(confirmation, field.name)
            for field in fields(confirmation)
            if field.name not in ("trials", "provenance", "untested")
        },
        "untested": dict(confirmation.untested),
        "trials": [_trial_record(trial) for trial in confirmation.trials],
        "provenance": asdict(confirmation.provenance),
    }


def _trial_record(trial: Trial) -> dict[str, Any]:
    kept = {
        field.name: getattr(trial, field.name)
        for field in fields(trial)
        if field.name not in ("effect", "random_sets", "heads")
    }
    figures = {
        field.name: getattr(trial.effect, field.name)
        for field in fields(trial.effect)
        if field.name != "random"
    }
    return {**kept, "heads": [str(head) for head in trial.heads], "effect": figures}


def load_confirmation(path: str | os.PathLike[str]) -> Confirmation:
    """Read a confirmation back.

    Raises:
        ReportError: no such file, or it holds no confirmation.
    """
    tensors, stored = load_record(path, format=FORMAT, kind="confirmation")
    trials = tuple(
        _trial(trial, tensors[f"{index}/changes"], tensors[f"{index}/sets"])
        for index, trial in enumerate(stored.pop("trials"))
    )
    provenance = Provenance(**stored.pop("provenance"))
    return Confirmation(**stored, trials=trials, provenance=provenance)


def _trial(stored: dict[str, Any], changes: Tensor, sets: Tensor) -> Trial:
    effect = Effect(**stored.pop("effect"), random=changes)
    rank = stored.pop("rank_in_layer")
    return Trial(
        **{**stored, "crowded": tuple(stored["crowded"])}
        | {
            "heads": tuple(Head.of(name) for name in stored["heads"]),
            "random_sets": tuple(tuple(Head(*head) for head in heads) for heads in sets.tolist()),
            "rank_in_layer": None if rank is None else tuple(rank),
            "effect": effect,
        }
    )
