"""Effects and sweeps on disk: figures as tensors, the rest as a record."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor

from mi_toolkit.interventions.ablation.component import Component
from mi_toolkit.interventions.effects.result import FIGURES, AblationEffect, FreeText
from mi_toolkit.interventions.effects.sweep import AblationSweep
from mi_toolkit.predictions import Prediction
from mi_toolkit.provenance import Provenance
from mi_toolkit.record_file import load_record, save_record

EFFECT = "mi_toolkit ablation effect 1"
SWEEP = "mi_toolkit ablation sweep 1"
_OF_EFFECT = ("ids", "kl", "losses_before", "losses_after")


def effect_record(effect: AblationEffect) -> dict[str, Any]:
    """What is not a tensor, as plain values that JSON can hold, with the five changes."""
    free = effect.free_text
    return {
        "components": [str(component) for component in effect.components],
        "how": effect.how,
        "reference": effect.reference,
        "texts": effect.texts,
        "before": asdict(effect.before),
        "after": asdict(effect.after),
        "top_before": [asdict(each) for each in effect.top_before],
        "top_after": [asdict(each) for each in effect.top_after],
        "change": effect.change,
        "controls": [[str(component) for component in each] for each in effect.controls],
        "free_text": None if free is None else asdict(free),
        "provenance": asdict(effect.provenance),
    }


def save_effect(effect: AblationEffect, path: str | os.PathLike[str]) -> None:
    """Write an effect, whole or not at all."""
    tensors = {name: getattr(effect, name) for name in _OF_EFFECT}
    tensors |= {f"controls/{name}": values for name, values in effect.control_changes.items()}
    save_record(path, format=EFFECT, tensors=tensors, record=effect_record(effect))


def load_effect(path: str | os.PathLike[str]) -> AblationEffect:
    """Read an effect back.

    Raises:
        ReportError: no such file, or it holds no effect.
    """
    tensors, stored = load_record(path, format=EFFECT, kind="ablation effect")
    free = stored["free_text"]
    return AblationEffect(
        components=_components(stored["components"]),
        how=stored["how"],
        reference=stored["reference"],
        texts=tuple(stored["texts"]),
        before=Prediction(**stored["before"]),
        after=Prediction(**stored["after"]),
        top_before=tuple(Prediction(**each) for each in stored["top_before"]),
        top_after=tuple(Prediction(**each) for each in stored["top_after"]),
        controls=tuple(_components(each) for each in stored["controls"]),
        control_changes={name: tensors[f"controls/{name}"] for name in FIGURES},
        free_text=None if free is None else FreeText(**{k: tuple(v) for k, v in free.items()}),
        provenance=Provenance(**stored["provenance"]),
        **{name: tensors[name] for name in _OF_EFFECT},
    )


def sweep_record(sweep: AblationSweep) -> dict[str, Any]:
    """What is not a tensor, as plain values that JSON can hold."""
    return {
        "clean": asdict(sweep.clean),
        "clean_loss": sweep.clean_loss,
        "texts": sweep.texts,
        "how": sweep.how,
        "reference": sweep.reference,
        "provenance": asdict(sweep.provenance),
    }


def save_sweep(sweep: AblationSweep, path: str | os.PathLike[str]) -> None:
    """Write a sweep, whole or not at all."""
    tensors: dict[str, Tensor] = {"ids": sweep.ids, **{name: sweep[name] for name in FIGURES}}
    save_record(path, format=SWEEP, tensors=tensors, record=sweep_record(sweep))


def load_sweep(path: str | os.PathLike[str]) -> AblationSweep:
    """Read a sweep back.

    Raises:
        ReportError: no such file, or it holds no sweep.
    """
    tensors, stored = load_record(path, format=SWEEP, kind="ablation sweep")
    changed: dict[str, Any] = {
        "clean": Prediction(**stored["clean"]),
        "texts": tuple(stored["texts"]),
        "provenance": Provenance(**stored["provenance"]),
        **tensors,
    }
    return AblationSweep(**stored | changed)


def _components(names: Sequence[str]) -> tuple[Component, ...]:
    return tuple(Component.of(name) for name in names)
