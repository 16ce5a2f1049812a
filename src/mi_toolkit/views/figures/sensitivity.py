"""Pictures of a sensitivity run: fidelity of the scores, maps on a log colour scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import LogNorm

from mi_toolkit.views.colours import SEQUENTIAL, shade
from mi_toolkit.views.figures.sheet import colour_map, new_axes
from mi_toolkit.views.figures.style import in_house_style, line

Row = Mapping[Any, Any]

FAINTEST = 0.3
"""Of the scale of blues: the last ranks are seen on light paper and on dark."""


@in_house_style
def fidelity_figure(rows: Sequence[Row], trust: Row, ax: Axes | None = None) -> Axes:
    """Each removed weight: its score against what its removal did, both as sizes on log scales.

    Small dots are weights, coloured by their place in the ranking; large ones the medians of each
    place; the line is where the two are equal, for scores in nats.

    Args:
        rows: one per removed weight: `stratum`, `score`, `loss_rise`.
        trust: `metric`, `n`, and `spearman` with its interval.
        ax: axes to draw in; None for a figure of its own, which is `ax.figure`.
    """
    metric = str(trust["metric"])
    if ax is None:
        ax = new_axes(4.0, 2.6, left=0.95, right=1.4, top=0.6)
    low, high = trust["spearman_low"], trust["spearman_high"]
    ax.set_title(
        f"{metric} against removal, weight by weight\n"
        f"rank correlation {trust['spearman']:.2f} [{low:.2f}, {high:.2f}], {trust['n']} weights",
        parse_math=False,
    )
    shown = [row for row in rows if row["score"] and row["loss_rise"]]
    strata = _strata(shown)
    for index, stratum in enumerate(strata):
        points = [row for row in shown if row["stratum"] == stratum]
        xs = [abs(row["score"]) for row in points]
        ys = [abs(row["loss_rise"]) for row in points]
        colour = shade(0.85 - (0.85 - FAINTEST) * index / max(1, len(strata) - 1), SEQUENTIAL)
        ax.plot(xs, ys, "o", color=colour, markersize=3, alpha=0.6, markeredgewidth=0)
        name = "drawn from all" if stratum == "any" else f"rank {stratum}"
        ax.plot([_median(xs)], [_median(ys)], "o", color=colour, markersize=8, label=name)
    ax.set_xscale("log")
    ax.set_yscale("log")
    if "grad_x_weight" in metric or (metric.startswith("obd") and shown):
        ends = [min(*ax.get_xlim(), *ax.get_ylim()), max(*ax.get_xlim(), *ax.get_ylim())]
        bounds = ax.get_xlim(), ax.get_ylim()
        ax.plot(ends, ends, color=line(), linewidth=0.8, zorder=0)
        ax.set_xlim(*bounds[0])
        ax.set_ylim(*bounds[1])
    ax.set_xlabel("size of the score")
    ax.set_ylabel("size of the change in loss\n(nats per token)")
    if shown:
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), handletextpad=0.1)
    return ax


@in_house_style
def layer_figure(rows: Sequence[Row], metric: str, ax: Axes | None = None) -> Axes:
    """Mean score of a weight, layers downwards, components across, colour on a log scale.

    Args:
        rows: one per layer and component: `layer`, `component`, `mean`.
        metric: the scorer.
        ax: axes to draw in; None for a figure of its own, which is `ax.figure`.
    """
    cells = {(int(row["layer"]), row["component"]): row["mean"] for row in rows}
    components = list(dict.fromkeys(row["component"] for row in rows))
    return _map(cells, components, f"{metric}: mean score of a weight", "", ax, slanted=True)


@in_house_style
def head_figure(rows: Sequence[Row], metric: str, ax: Axes | None = None) -> Axes:
    """Sum of each head's scores, layers downwards, heads across, colour on a log scale.

    Args:
        rows: one per head: `layer`, `head`, `sum`.
        metric: the scorer.
        ax: axes to draw in; None for a figure of its own, which is `ax.figure`.
    """
    cells = {(int(row["layer"]), int(row["head"])): row["sum"] for row in rows}
    heads = sorted({head for _, head in cells})
    return _map(cells, heads, f"{metric}: sum of each head's scores", "head", ax, slanted=False)


def _map(
    cells: Mapping[tuple[int, Any], float],
    columns: Sequence[Any],
    name: str,
    across: str,
    ax: Axes | None,
    *,
    slanted: bool,
) -> Axes:
    layers = sorted({layer for layer, _ in cells})
    if ax is None:
        cell = 0.42 if len(columns) <= 16 else 0.28
        width = max(2.2, cell * len(columns))
        right = max(0.95, 0.07 * len(name) - width)
        ax = new_axes(width, 0.22 * len(layers) + 0.2, right=right, bottom=0.65)
    grid = [[abs(cells.get((layer, column), 0.0)) for column in columns] for layer in layers]
    sizes = [value for each in grid for value in each if value > 0 and math.isfinite(value)]
    low, high = (min(sizes), max(sizes)) if sizes else (0.1, 1.0)
    norm = LogNorm(vmin=low, vmax=high if high > low else low * 10)
    image = ax.imshow(grid, aspect="auto", cmap=colour_map(SEQUENTIAL), norm=norm)
    ax.set_title(name, parse_math=False)
    ax.set_xticks(range(len(columns)), [str(column) for column in columns])
    if slanted:
        ax.tick_params(axis="x", rotation=45)
    ax.set_yticks(range(len(layers)), [str(layer) for layer in layers])
    ax.set_ylabel("layer")
    ax.set_xlabel(across)
    ax.tick_params(length=0, labelsize=7)
    ax.spines[:].set_visible(False)
    beside = ax.inset_axes((1.03, 0, 0.04, 1))
    ax.figure.colorbar(image, cax=beside).ax.tick_params(which="both", labelsize=7)
    return ax


def _strata(rows: Sequence[Row]) -> list[str]:
    """From the first ranks to the last, weights drawn from all behind."""
    named = dict.fromkeys(str(row["stratum"]) for row in rows)
    return sorted(named, key=lambda name: math.inf if name == "any" else int(name.split("-")[0]))


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
