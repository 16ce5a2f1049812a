"""Pictures of a sensitivity run: dose curve, fidelity of the scores, maps on a log colour scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from mi_toolkit.views.colours import SEQUENTIAL, shade
from mi_toolkit.views.figures.sheet import axes_at, colour_map, title

Row = Mapping[Any, Any]

GROUPS = {
    "top": ("#d55e00", "-", "the top"),
    "magnitude_matched": ("#0072b2", "-", "weights of the same size"),
    "bottom": ("#777777", ":", "the lowest scores"),
}
"""Lines of a dose curve: colour, style and name."""


def dose_figure(rows: Sequence[Row], metric: str, kind: str) -> Figure:
    """Rise of the loss by dose: the top above the band of random weights, and its other controls.

    The band is the random draws' mean and two standard deviations to each side. Doses stand at
    even distances.
    """
    rows = sorted(rows, key=lambda row: row["k"])
    figure = Figure(figsize=(6.4, 4.0))
    title(figure, f"Changing the top weights by {metric} ({kind})")
    ax = axes_at(figure, 0.9, 0.6, 5.2, 2.6)
    places = range(len(rows))
    drawn = [i for i in places if _known(rows[i]["random_mean"])]
    if drawn:
        spreads = [2 * _or_zero(rows[i]["random_sd"]) for i in drawn]
        means = [rows[i]["random_mean"] for i in drawn]
        low = [mean - spread for mean, spread in zip(means, spreads, strict=True)]
        high = [mean + spread for mean, spread in zip(means, spreads, strict=True)]
        if len(drawn) == 1:  # a band of one dose has no length
            ax.errorbar(
                drawn, means, yerr=spreads, color="#9aa5b1", capsize=6, label="random, 2 sd"
            )
        else:
            ax.fill_between(drawn, low, high, color="#c3cad2", linewidth=0, label="random, 2 sd")
    for name, (colour, style, label) in GROUPS.items():
        shown = [i for i in places if _known(rows[i][name])]
        if shown:
            values = [rows[i][name] for i in shown]
            ax.plot(shown, values, style, color=colour, marker="o", markersize=4, label=label)
    ax.axhline(0, color="#bbbbbb", linewidth=0.8, zorder=0)
    ax.set_xticks(list(places), [f"{row['k']:,}" for row in rows])
    ax.set_xlabel("weights changed")
    ax.set_ylabel("rise of the loss (nats per token)")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8)
    return figure


def fidelity_figure(rows: Sequence[Row], trust: Row) -> Figure:
    """Each removed weight: its score against what its removal did, both as sizes on log scales.

    Small dots are weights, coloured by their place in the ranking; large ones the medians of each
    place; the line is where the two are equal, for scores in nats.
    """
    figure = Figure(figsize=(6.4, 4.4))
    metric = str(trust["metric"])
    title(figure, f"{metric} against removal, weight by weight")
    ax = axes_at(figure, 0.9, 0.85, 5.2, 2.8)
    low, high = trust["spearman_low"], trust["spearman_high"]
    figure.text(
        0.9 / 6.4,
        1 - 0.62 / 4.4,
        f"rank correlation {trust['spearman']:.2f} [{low:.2f}, {high:.2f}], {trust['n']} weights",
        fontsize=9,
        color="#444444",
    )
    shown = [row for row in rows if row["score"] and row["loss_rise"]]
    for index, stratum in enumerate(_strata(shown)):
        points = [row for row in shown if row["stratum"] == stratum]
        xs = [abs(row["score"]) for row in points]
        ys = [abs(row["loss_rise"]) for row in points]
        colour = shade(1 - index / 6, SEQUENTIAL)
        ax.plot(xs, ys, "o", color=colour, markersize=3, alpha=0.6, markeredgewidth=0)
        name = "drawn from all" if stratum == "any" else f"rank {stratum}"
        ax.plot([_median(xs)], [_median(ys)], "o", color=colour, markersize=9, label=name)
    ax.set_xscale("log")
    ax.set_yscale("log")
    if "grad_x_weight" in metric or (metric.startswith("obd") and shown):
        ends = [min(*ax.get_xlim(), *ax.get_ylim()), max(*ax.get_xlim(), *ax.get_ylim())]
        bounds = ax.get_xlim(), ax.get_ylim()
        ax.plot(ends, ends, color="#bbbbbb", linewidth=0.8, zorder=0)
        ax.set_xlim(*bounds[0])
        ax.set_ylim(*bounds[1])
    ax.set_xlabel("size of the score")
    ax.set_ylabel("size of the change in loss (nats per token)")
    ax.spines[["top", "right"]].set_visible(False)
    if shown:
        ax.legend(frameon=False, fontsize=8)
    return figure


def layer_figure(rows: Sequence[Row], metric: str) -> Figure:
    """Mean score of a weight, layers downwards, components across, colour on a log scale."""
    cells = {(int(row["layer"]), row["component"]): row["mean"] for row in rows}
    components = list(dict.fromkeys(row["component"] for row in rows))
    return _map(cells, components, f"{metric}: mean score of a weight", "", slanted=True)


def head_figure(rows: Sequence[Row], metric: str) -> Figure:
    """Sum of each head's scores, layers downwards, heads across, colour on a log scale."""
    cells = {(int(row["layer"]), int(row["head"])): row["sum"] for row in rows}
    heads = sorted({head for _, head in cells})
    return _map(cells, heads, f"{metric}: sum of each head's scores", "head", slanted=False)


def _map(
    cells: Mapping[tuple[int, Any], float],
    columns: Sequence[Any],
    name: str,
    across: str,
    *,
    slanted: bool,
) -> Figure:
    layers = sorted({layer for layer, _ in cells})
    cell = 0.42 if len(columns) <= 16 else 0.28
    width, height = max(2.6, cell * len(columns)), 0.22 * len(layers) + 0.2
    figure = Figure(figsize=(max(width + 2.2, 1.2 + 0.095 * len(name)), height + 1.4))
    title(figure, name)
    ax = axes_at(figure, 0.7, 0.55, width, height)
    grid = [[abs(cells.get((layer, column), 0.0)) for column in columns] for layer in layers]
    sizes = [value for line in grid for value in line if value > 0 and math.isfinite(value)]
    low, high = (min(sizes), max(sizes)) if sizes else (0.1, 1.0)
    norm = LogNorm(vmin=low, vmax=high if high > low else low * 10)
    image = ax.imshow(grid, aspect="auto", cmap=colour_map(SEQUENTIAL), norm=norm)
    ax.set_xticks(range(len(columns)), [str(column) for column in columns], fontsize=7)
    if slanted:
        ax.tick_params(axis="x", rotation=45)
    ax.set_yticks(range(len(layers)), [str(layer) for layer in layers], fontsize=7)
    ax.set_ylabel("layer")
    ax.set_xlabel(across)
    ax.tick_params(length=0)
    bar = axes_at(figure, 0.7 + width + 0.2, 0.55, 0.14, height)
    figure.colorbar(image, cax=bar).ax.tick_params(which="both", labelsize=7)
    return figure


def _strata(rows: Sequence[Row]) -> list[str]:
    """From the first ranks to the last, weights drawn from all behind."""
    named = dict.fromkeys(str(row["stratum"]) for row in rows)
    return sorted(named, key=lambda name: math.inf if name == "any" else int(name.split("-")[0]))


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _known(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _or_zero(value: Any) -> float:
    return float(value) if _known(value) else 0.0
