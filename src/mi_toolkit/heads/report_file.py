"""A report on disk: one safetensors file, its record as JSON in the header. No pickle."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mi_toolkit.errors import ReportError
from mi_toolkit.files import written_whole
from mi_toolkit.heads.combine import combined
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.prompts.tokens import TokenBatch
from mi_toolkit.provenance import Provenance

FORMAT = "mi_toolkit head report 1"
_TENSORS = (
    "score",
    "null",
    "lift",
    "ci_low",
    "ci_high",
    "head_queries",
    "coverage",
    "labels",
    "scope",
)


def save_report(report: HeadReport, path: str | os.PathLike[str]) -> None:
    """Write a report, whole or not at all."""
    parts = report.parts or {next(iter(report.tokens)): report}
    tensors: dict[str, Tensor] = {}
    for stimulus, part in parts.items():
        batch = part.tokens[stimulus]
        tensors |= {f"{stimulus}/{name}": getattr(part, name).contiguous() for name in _TENSORS}
        tensors |= {
            f"{stimulus}/ids": batch.ids.contiguous(),
            f"{stimulus}/lengths": batch.lengths.contiguous(),
        }
    record = {
        "is_combined": bool(report.parts),
        "parts": {stimulus: part.record() for stimulus, part in parts.items()},
    }
    with written_whole(path) as draft:
        save_file(tensors, draft, metadata={"format": FORMAT, "report": json.dumps(record)})


def load_report(path: str | os.PathLike[str]) -> HeadReport:
    """Read a report back.

    Raises:
        ReportError: no such file, or it holds no report.
    """
    if not Path(path).is_file():
        raise ReportError(f"There is no report at {path}.")
    try:
        with safe_open(path, framework="pt") as stored:
            metadata = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ReportError(f"{path} is no safetensors file, or is damaged: {error}.") from error
    if metadata.get("format") != FORMAT:
        raise ReportError(
            f"{path} is a safetensors file, but holds no head report of this version "
            f"({metadata.get('format', 'no format named')}; wanted {FORMAT!r})."
        )
    record = json.loads(metadata["report"])
    parts = {name: _part(name, part, tensors) for name, part in record["parts"].items()}
    return combined(parts) if record["is_combined"] else next(iter(parts.values()))


def _part(stimulus: str, record: dict[str, Any], tensors: dict[str, Tensor]) -> HeadReport:
    provenance = Provenance(**record.pop("provenance"))
    batch = TokenBatch(
        ids=tensors[f"{stimulus}/ids"],
        lengths=tensors[f"{stimulus}/lengths"],
        bos_id=provenance.bos_id,
    )
    for name in ("behaviours", "label_names", "windows"):
        record[name] = tuple(record[name])
    record |= {name: tensors[f"{stimulus}/{name}"] for name in _TENSORS}
    return HeadReport(
        **record,
        provenance=provenance,
        tokens={stimulus: batch},
        parts={},
    )
