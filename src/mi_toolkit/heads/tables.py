"""Tables of what is said of heads: a row per head, behaviour and stimulus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from mi_toolkit.core.head import Head

if TYPE_CHECKING:
    from mi_toolkit.heads.control import UntrainedControl
    from mi_toolkit.heads.report import HeadReport


def head_table(report: HeadReport) -> pd.DataFrame:
    """One row per stimulus, behaviour and head; `home` marks the rows that the labels rest on."""
    parts = report.parts or {next(iter(report.tokens)): report}
    table = pd.concat([_part_table(part, report) for part in parts.values()], ignore_index=True)
    if report.untrained is not None:
        table = _against(table, report, report.untrained)
    layers = {head.layer for head in report.all_heads}
    return table[table["layer"].isin(layers)].reset_index(drop=True)


def _against(table: pd.DataFrame, report: HeadReport, control: UntrainedControl) -> pd.DataFrame:
    """The table with what untrained twins reach, in the rows that they were measured for."""
    table["untrained_max"] = float("nan")
    table["untrained_reached"] = float("nan")
    for behaviour in report.behaviours:
        rows = table["home"] & (table["behaviour"] == behaviour)
        shares = control.reached(behaviour, report[behaviour])
        table.loc[rows, "untrained_max"] = control.highest(behaviour)
        table.loc[rows, "untrained_reached"] = shares.flatten().numpy()
    return table


def _part_table(part: HeadReport, whole: HeadReport) -> pd.DataFrame:
    _, n_layers, n_heads = part.score.shape
    heads = [Head(layer, head) for layer in range(n_layers) for head in range(n_heads)]
    of_heads = {
        "layer": [head.layer for head in heads],
        "head": [head.head for head in heads],
        "name": [str(head) for head in heads],
        "kv_head": [part.kv_head(head) for head in heads],
        "window": pd.array([part.windows[head.layer] for head in heads], dtype="Int64"),
    }
    scopes = [part.scope_names[index] for index in part.scope.flatten().tolist()]
    frames = []
    for row, behaviour in enumerate(part.behaviours):
        stimulus, labels = part.stimulus[behaviour], _labels(part, behaviour)
        shown = [
            pd.NA if pd.isna(label) else part.copying_shown(label, head)
            for label, head in zip(labels, heads, strict=True)
        ]
        columns: dict[str, Any] = {
            "model": part.provenance.model,
            "stimulus": stimulus,
            "home": whole.stimulus[behaviour] == stimulus,
            "behaviour": behaviour,
            **of_heads,
            **_figures(part, row, "score", "null", "lift", "ci_low", "ci_high", "p"),
            "n_queries": part.head_queries[row].flatten().numpy(),
            "n_sequences": part.n_sequences[behaviour],
            "applicable": part.applicable[behaviour],
            "interval": part.interval[behaviour],
            "interval_over": part.interval_over[behaviour],
            "weighting": part.weighting,
            **_figures(part, row, "copying", "copying_low", "copying_high"),
            "label": labels,
            "labelled": labels.notna(),
            "copying_shown": pd.array(shown, dtype="boolean"),
            **_figures(part, row, "borderline"),
            "coverage": part.coverage.flatten().numpy(),
            "scope": scopes,
        }
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


def _figures(part: HeadReport, row: int, *fields: str) -> dict[str, Any]:
    """Some figures of one behaviour, head by head."""
    return {field: getattr(part, field)[row].flatten().numpy() for field in fields}


def _labels(part: HeadReport, behaviour: str) -> pd.Series[Any]:
    """Per head: the label that it earns by a behaviour, which may be that of suppressing."""
    names = pd.Series([pd.NA] * part.scope.numel(), dtype="string")
    for marked, label in zip(part.labels.flatten(start_dim=1), part.label_names, strict=True):
        if part.behaviour_of(label) == behaviour:
            names[marked.numpy()] = label
    return names
