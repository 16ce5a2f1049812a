"""The picture of weight scores: an ideal one, and each of ours against single removals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mi_toolkit.draw.figures.style import in_house_style, line

RECORD = Path(__file__).parents[2] / "docs/data/weight_fidelity.json"
COLUMNS, WIDTH, HEIGHT = 5, 2.1, 1.95
SMALLEST = 1e-6
"""Nats: what is below is float32's rounding."""


@in_house_style
def weight_scores() -> Figure:
    """A panel to a score: its size against the size of the change in loss, on log scales."""
    found: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))
    rises = [abs(rise) for _, _, rise in found["grad_x_weight"]["rows"]]
    n_rows = -(-(len(found) + 1) // COLUMNS)
    width, height = 0.5 + COLUMNS * WIDTH, 0.45 + n_rows * HEIGHT
    figure = Figure(figsize=(width, height))
    axes = [_axes(figure, place, width, height) for place in range(len(found) + 1)]
    _scatter(axes[0], rises, rises)
    axes[0].set_title("ideal: 1.00")
    for ax, (metric, recorded) in zip(axes[1:], found.items(), strict=True):
        scores, changes = ([abs(row[at]) for row in recorded["rows"]] for at in (1, 2))
        _scatter(ax, scores, changes)
        trust = recorded["trust"]
        ax.set_title(f"{_short(metric)}: {trust['spearman']:.2f}", parse_math=False)
    figure.text(0.01, 0.5, "change in loss", rotation=90, va="center", fontsize=9)
    figure.text(0.5, 0.012, "score of the weight", ha="center", fontsize=9)
    return figure


def _axes(figure: Figure, place: int, width: float, height: float) -> Axes:
    row, column = divmod(place, COLUMNS)
    left, top = 0.45 + column * WIDTH, 0.3 + row * HEIGHT
    inner = (WIDTH - 0.35, HEIGHT - 0.5)
    return figure.add_axes(
        (left / width, 1 - (top + inner[1]) / height, inner[0] / width, inner[1] / height)
    )


def _scatter(ax: Axes, scores: list[float], changes: list[float]) -> None:
    kept = [
        (score, change)
        for score, change in zip(scores, changes, strict=True)
        if score > 0 and change > SMALLEST
    ]
    ax.plot(*zip(*kept, strict=True), ".", markersize=4, alpha=0.7)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.grid(visible=True, color=line(), linewidth=0.4)
    ax.tick_params(which="both", length=0, labelbottom=False, labelleft=False)


def _short(metric: str) -> str:
    return metric.replace("weight_integrated_gradients", "integrated gradients")
