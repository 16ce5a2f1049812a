"""A report on disk: one safetensors file, its record as JSON in the header. No pickle."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mi_toolkit.heads.combine import combined
from mi_toolkit.heads.control import UntrainedControl
from mi_toolkit.heads.kinds import BehaviourFacts
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.prompts.tokens import TokenBatch
from mi_toolkit.provenance import Provenance
from mi_toolkit.record_file import load_record, save_record

FORMAT = "mi_toolkit head report 3"
BEFORE = "mi_toolkit head report 2"
"""Saved before p was kept: labels by intervals alone, which a bootstrap made."""

_UNTRAINED = "untrained twins/"
_TENSORS = (
    "score",
    "null",
    "lift",
    "ci_low",
    "ci_high",
    "p",
    "head_queries",
    "copying",
    "copying_low",
    "copying_high",
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
        tensors |= {f"{stimulus}/{name}": getattr(part, name) for name in _TENSORS}
        tensors |= {
            f"{stimulus}/ids": batch.ids.int(),  # half of a small model's file, as 64-bit ids
            f"{stimulus}/lengths": batch.lengths,
            **{f"{stimulus}/role/{role}": span for role, span in batch.roles.items()},
        }
    record = {
        "is_combined": bool(report.parts),
        "parts": {stimulus: part.record() for stimulus, part in parts.items()},
    }
    if report.untrained is not None:
        record["untrained"], of_twins = report.untrained.taken_apart()
        tensors |= {f"{_UNTRAINED}{name}": tensor for name, tensor in of_twins.items()}
    save_record(path, format=FORMAT, tensors=tensors, record=record)


def load_report(path: str | os.PathLike[str]) -> HeadReport:
    """Read a report back.

    Raises:
        ReportError: no such file, or it holds no report.
    """
    tensors, record = load_record(path, format=(FORMAT, BEFORE), kind="head report")
    parts = {name: _part(name, part, tensors) for name, part in record["parts"].items()}
    report = combined(parts) if record["is_combined"] else next(iter(parts.values()))
    if "untrained" not in record:
        return report
    of_twins = {
        name.removeprefix(_UNTRAINED): tensor
        for name, tensor in tensors.items()
        if name.startswith(_UNTRAINED)
    }
    return replace(report, untrained=UntrainedControl.put_together(record["untrained"], of_twins))


def _with_bos_in_words(provenance: dict[str, Any]) -> dict[str, Any]:
    """A report saved before knew whether there was a BOS, not whether it was a stand-in."""
    said = {True: "own or stand-in", False: "none"}
    bos = {name: said.get(value, value) for name, value in provenance["bos"].items()}
    return {**provenance, "bos": bos}


def _part(stimulus: str, record: dict[str, Any], tensors: dict[str, Tensor]) -> HeadReport:
    provenance = Provenance(**_with_bos_in_words(record.pop("provenance")))
    batch = TokenBatch(
        ids=tensors[f"{stimulus}/ids"].long(),
        lengths=tensors[f"{stimulus}/lengths"],
        bos_id=provenance.bos_id,
        beginnings=(provenance.bos[stimulus],) * len(tensors[f"{stimulus}/lengths"]),
        roles={
            name.removeprefix(f"{stimulus}/role/"): spans
            for name, spans in tensors.items()
            if name.startswith(f"{stimulus}/role/")
        },
    )
    record["facts"] = {
        name: BehaviourFacts(**facts | {"excluded_stimuli": tuple(facts["excluded_stimuli"])})
        for name, facts in record["facts"].items()
    }
    for name in ("behaviours", "label_names", "windows"):
        record[name] = tuple(record[name])
    if "fdr" not in record:
        record["fdr"] = None
        tensors[f"{stimulus}/p"] = torch.full_like(tensors[f"{stimulus}/score"], math.nan)
    record |= {name: tensors[f"{stimulus}/{name}"] for name in _TENSORS}
    return HeadReport(
        **record,
        provenance=provenance,
        tokens={stimulus: batch},
        parts={},
    )
