"""Statistics of activations on disk: one safetensors file."""

from __future__ import annotations

import os

from torch import Tensor

from mi_toolkit.activations.moments import Moments
from mi_toolkit.activations.statistics import ActivationStatistics, UnitStatistics
from mi_toolkit.activations.top_examples import TopExamples
from mi_toolkit.record_file import load_record, save_record

FORMAT = "mi_toolkit activation statistics 1"
_MOMENTS = ("mean", "deviations", "minimum", "maximum", "positive")
_TOP = ("values", "place", "context")


def save_statistics(statistics: ActivationStatistics, path: str | os.PathLike[str]) -> None:
    """Write statistics, whole or not at all."""
    tensors: dict[str, Tensor] = {}
    for hook, unit in statistics.units.items():
        for part, moments in (("units", unit.moments), ("norms", unit.norms)):
            tensors |= {f"{hook}/{part}/{name}": getattr(moments, name) for name in _MOMENTS}
        tensors |= {f"{hook}/top/{name}": getattr(unit.top, name) for name in _TOP}
    record = {
        "model": statistics.model,
        "n_layers": statistics.n_layers,
        "n_documents": statistics.n_documents,
        "settings": dict(statistics.settings),
        "counts": {hook: unit.moments.count for hook, unit in statistics.units.items()},
        "texts": {str(token): text for token, text in statistics.texts.items()},
    }
    save_record(path, format=FORMAT, tensors=tensors, record=record)


def load_statistics(path: str | os.PathLike[str]) -> ActivationStatistics:
    """Read statistics back.

    Raises:
        ReportError: no such file, or it holds no statistics.
    """
    tensors, record = load_record(path, format=FORMAT, kind="statistics of activations")

    def moments(hook: str, part: str, count: int) -> Moments:
        return Moments(count=count, **{name: tensors[f"{hook}/{part}/{name}"] for name in _MOMENTS})

    counts = record.pop("counts")
    texts = {int(token): text for token, text in record.pop("texts").items()}
    units = {
        hook: UnitStatistics(
            moments=moments(hook, "units", count),
            norms=moments(hook, "norms", count),
            top=TopExamples(**{name: tensors[f"{hook}/top/{name}"] for name in _TOP}),
        )
        for hook, count in counts.items()
    }
    return ActivationStatistics(**record, units=units, texts=texts)
