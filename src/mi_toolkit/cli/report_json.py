"""A `HeadReport` as plain values, for `--json`."""

from __future__ import annotations

from typing import Any

from mi_toolkit.heads.control import UntrainedControl
from mi_toolkit.heads.labels import UNCLASSIFIED
from mi_toolkit.heads.report import HeadReport

_FIGURES = (
    *("score", "null", "lift", "ci_low", "ci_high", "p"),
    *("copying", "copying_low", "copying_high"),
)


def report_record(report: HeadReport) -> dict[str, Any]:
    """The report: its record, figures per behaviour as `[layer][head]`, labels with their heads."""
    record = report.record()
    n_layers, n_heads = report.scope.shape
    labels = {name: [str(head) for head in report.heads(name)] for name in report.label_names}
    return {
        "model": report.provenance.model,
        "n_layers": n_layers,
        "n_heads": n_heads,
        "n_kv_heads": report.n_kv_heads,
        "windows": list(report.windows),
        "min_lift": report.min_lift,
        "fdr": report.fdr,
        "labels": {**labels, UNCLASSIFIED: [str(head) for head in report.heads(UNCLASSIFIED)]},
        "scope": [[report.scope_names[index] for index in row] for row in report.scope.tolist()],
        "coverage": report.coverage.tolist(),
        "behaviours": {
            name: {
                **{
                    key: record[key][name]
                    for key in ("stimulus", "applicable", "interval", "n_sequences", "n_queries")
                },
                "interval_over": report.interval_over[name],
                "borderline": report.borderline[row].tolist(),
                **{field: getattr(report, field)[row].tolist() for field in _FIGURES},
            }
            for row, name in enumerate(report.behaviours)
        },
        "untrained": None if report.untrained is None else _twins(report.untrained),
        "provenance": record["provenance"],
    }


def _twins(control: UntrainedControl) -> dict[str, Any]:
    """Per behaviour the strongest head of each twin, per label how many heads carry it."""
    return {
        "n": control.n,
        "n_heads": control.n_heads,
        "initialisation": control.initialisation,
        "strongest": dict(zip(control.behaviours, control.strongest.tolist(), strict=True)),
        "labelled": dict(zip(control.label_names, control.labelled.tolist(), strict=True)),
    }
