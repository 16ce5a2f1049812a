"""A report on disk: one safetensors file, its record as JSON in the header. No pickle."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mi_toolkit.core.provenance import Provenance
from mi_toolkit.core.result import load_record, save_record
from mi_toolkit.core.tokens import TokenBatch
from mi_toolkit.heads.control import UntrainedControl
from mi_toolkit.heads.kinds import BehaviourSpec
from mi_toolkit.heads.labels import BarFigures, label_heads, scope_of_heads
from mi_toolkit.heads.report import HeadReport


def merge_stimuli(parts: Mapping[str, HeadReport]) -> HeadReport:
    """One report whose rows each come from the behaviour's home stimulus, all parts kept."""
    first_name, first = next(iter(parts.items()))
    homes = {name: first.facts[name].home for name in first.behaviours}
    if "natural" not in parts:  # a model without a tokenizer reads no passages
        homes = {name: home if home in parts else first_name for name, home in homes.items()}

    def rows(field: str) -> Tensor:
        return torch.stack(
            [getattr(parts[home], field)[row] for row, home in enumerate(homes.values())]
        )

    def entries(field: str) -> dict[str, Any]:
        return {name: getattr(parts[home], field)[name] for name, home in homes.items()}

    bar: dict[str, Any] = {field: rows(field) for field in BarFigures._fields}
    copying_low, copying_high = rows("copying_low"), rows("copying_high")
    by_name = {
        name: BarFigures(*(figure[row] for figure in bar.values()))
        for row, name in enumerate(first.behaviours)
    }
    coverage, scope = first.coverage, first.scope
    if "locality" in homes:
        coverage = parts[homes["locality"]].coverage
        scope = scope_of_heads(by_name["locality"].ci_low, by_name["locality"].ci_high, coverage)
    labels = label_heads(
        by_name,
        {name: (copying_low[row], copying_high[row]) for row, name in enumerate(homes)},
        first.facts,
        min_lift=first.min_lift,
        fdr=first.fdr,
    )
    provenance = replace(
        first.provenance,
        bos={k: v for part in parts.values() for k, v in part.provenance.bos.items()},
        attention={k: v for part in parts.values() for k, v in part.provenance.attention.items()},
        prompts={k: v for part in parts.values() for k, v in part.provenance.prompts.items()},
    )
    return replace(
        first,
        **bar,
        null=rows("null"),
        lift=rows("lift"),
        head_queries=rows("head_queries"),
        copying=rows("copying"),
        copying_low=copying_low,
        copying_high=copying_high,
        coverage=coverage,
        labels=labels,
        scope=scope,
        applicable=entries("applicable"),
        interval=entries("interval"),
        n_sequences=entries("n_sequences"),
        n_queries=entries("n_queries"),
        stimulus=entries("stimulus"),
        provenance=provenance,
        tokens={name: part.tokens[name] for name, part in parts.items()},
        parts=dict(parts),
    )


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
    report = merge_stimuli(parts) if record["is_combined"] else next(iter(parts.values()))
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
        name: BehaviourSpec(**facts | {"excluded_stimuli": tuple(facts["excluded_stimuli"])})
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
