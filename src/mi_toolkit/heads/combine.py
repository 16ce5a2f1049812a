"""The standard report: each behaviour's figures from its home stimulus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mi_toolkit.heads.labels import BarFigures, label_heads, scope_of_heads
from mi_toolkit.heads.report import HeadReport


def combined(parts: Mapping[str, HeadReport]) -> HeadReport:
    """One report whose rows each come from the behaviour's home stimulus, all parts kept."""
    first = next(iter(parts.values()))
    homes = {name: first.facts[name].home for name in first.behaviours}

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
