"""What `mi-toolkit sensitivity` found, as JSON and as text."""

from __future__ import annotations

import json as json_format
from typing import TYPE_CHECKING, Any

from mi_toolkit.cli.terminal import bold

if TYPE_CHECKING:
    from pandas import DataFrame

    from mi_toolkit.sensitivity.settings import Settings
    from mi_toolkit.sensitivity.study import Study

_UNITS = ("head", "kv_head", "neuron")
SHOWN = 20
"""Rows of a top that are printed; all are in the files."""


def summary_of(study: Study) -> dict[str, Any]:
    """The tables of a run as plain values."""

    def rows(table: DataFrame | None) -> Any:
        return None if table is None else json_format.loads(table.to_json(orient="records"))

    return {
        "top": [
            {
                "metric": metric,
                "k": k,
                "warning": table.attrs.get("warning"),
                "weights": rows(table.head(SHOWN)),
            }
            for (metric, k), table in study.top.items()
        ],
        "effects": rows(study.effects),
        "trust": rows(study.trust),
        "stability": rows(study.stability),
        "layers": rows(study.layers),
    }


def show_study(study: Study, settings: Settings) -> None:
    """Print them, the tops cut."""
    for metric in settings.metrics:
        k = max(settings.topk)
        table = study.top[metric, k]
        print(bold(f"Highest by {metric}, per {settings.per} ({len(table)} weights)"))
        print(top_lines(table.head(SHOWN)))
        if len(table) > SHOWN:
            print(f"… and {len(table) - SHOWN} more")
        if "warning" in table.attrs:
            print(f"Warning: {table.attrs['warning']}")
        print()
    if study.effects is not None:
        print(bold("Rise in loss on held-out text, nats per token"))
        print(study.effects.to_string(index=False, float_format=lambda value: f"{value:.4g}"))
    if study.trust is not None:
        print()
        print(bold("Scores against single removals (rank correlations)"))
        print(study.trust.to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    if study.stability is not None:
        print()
        print(bold("Agreement of rankings (with 95% intervals)"))
        print(study.stability.to_string(index=False, float_format=lambda value: f"{value:.3f}"))


def top_lines(table: DataFrame) -> str:
    """The rows of a top as people read them: rank, place, head or neuron, weight, score."""
    rows = []
    for row in table.to_dict("records"):
        units = [f"{name} {row[name]}" for name in _UNITS if str(row[name]).isdecimal()]
        rows.append(
            f"{row['rank']:>5}  {row['parameter']}[{row['row']}, {row['column']}]".ljust(42)
            + f"  {''.join(units):<12}  weight {row['weight']:+.4g}".ljust(32)
            + f"  score {row['score']:.4g}"
            + (f" ± {row['standard_error']:.2g}" if "standard_error" in row else "")
        )
    return "\n".join(rows)
