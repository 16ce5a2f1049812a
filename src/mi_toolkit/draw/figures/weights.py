"""Critical weights: where scores lie, and what perturbing does next to controls."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import LogNorm

from mi_toolkit.core.errors import unknown_name
from mi_toolkit.draw.figures.style import colour_map, in_house_style, line, new_axes
from mi_toolkit.draw.primitives import LINES, SEQUENTIAL, shade
from mi_toolkit.weights.evaluate_scores import PerturbationTest
from mi_toolkit.weights.stability import RankingStability

Row = Mapping[Any, Any]

TOP, MATCHED, BOTTOM, RANDOM = LINES[1], LINES[0], LINES[2], "#999999"
GROUPS = {
    "top": ("the top", TOP, "D-"),
    "magnitude_matched": ("weights of the same size", MATCHED, "o--"),
    "bottom": ("the lowest scores", BOTTOM, "s:"),
}
MEASURES = {"jaccard": "o", "rank_biased_overlap": "D", "spearman": "s"}


@in_house_style
def dose_curve(test: PerturbationTest, kind: str | None = None, ax: Axes | None = None) -> Axes:
    """The rise in loss by how many weights are changed: the top next to its controls.

    Grey: each random draw, with a band over the mean and two standard deviations to each side. The
    axis across holds the doses as places, not as distances.

    Args:
        test: of `perturbation_test`.
        kind: how weights were changed; None for the first that was tested.
        ax: axes to draw in; None for a figure of its own, which is `ax.figure`.

    Raises:
        UnknownNameError: the test has no such kind.
    """
    kinds = list(dict.fromkeys(outcome.kind for outcome in test.outcomes))
    kind = kinds[0] if kind is None else kind
    if kind not in kinds:
        raise unknown_name("kind of change in this test", kind, kinds)
    ax = dose_figure(test.to_pandas().to_dict("records"), test.metric, kind, ax)
    ax.set_title(f"{test.provenance.model}: {test.metric}, {kind}", parse_math=False)
    return ax


@in_house_style
def dose_figure(rows: Sequence[Row], metric: str, kind: str, ax: Axes | None = None) -> Axes:
    """`dose_curve` of the rows that a sensitivity run keeps: one per changed set of weights.

    Args:
        rows: with `metric`, `kind`, `k`, `group` and `loss_rise`; those of other metrics and kinds
            are passed over.
        metric: whose top.
        kind: how weights were changed.
        ax: axes to draw in; None for a figure of its own, which is `ax.figure`.
    """
    rises: dict[tuple[int, str], list[float]] = {}
    for row in rows:
        if (row["metric"], row["kind"]) == (metric, kind):
            rises.setdefault((int(row["k"]), row["group"]), []).append(row["loss_rise"])
    doses = sorted({k for k, _ in rises})
    if ax is None:
        ax = new_axes(3.6, 2.3)
    ax.axhline(0, color=line(), linewidth=0.8, zorder=0)
    _draw_random(ax, [rises.get((k, "random"), []) for k in doses])
    for group, (name, colour, mark) in GROUPS.items():
        drawn = {place: rises[k, group][0] for place, k in enumerate(doses) if (k, group) in rises}
        if drawn:
            look = mark if len(doses) > 1 else mark[0]  # one dose is a dot: no line to draw
            ax.plot(list(drawn), list(drawn.values()), look, color=colour, label=name)
    ax.set_xticks(range(len(doses)), [f"{dose:,}" for dose in doses])
    ax.set(xlabel="weights changed", ylabel="rise in loss (nats per token)")
    ax.set_title(f"{metric}, {kind}", parse_math=False)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))  # beside the data: it hides none
    return ax


def _draw_random(ax: Axes, rises: Sequence[Sequence[float]]) -> None:
    """The draws of each dose, and the band; of a single dose a bar, as a band has no length."""
    bands: dict[int, tuple[float, float]] = {}
    for place, draws in enumerate(rises):
        ax.plot([place] * len(draws), draws, ".", color=RANDOM, markersize=3)
        if len(draws) > 1:
            bands[place] = (statistics.fmean(draws), 2 * statistics.stdev(draws))
    label = "random, same matrices"
    if len(bands) == 1:
        ((place, (mean, spread)),) = bands.items()
        ax.errorbar([place], [mean], yerr=[spread], color=RANDOM, capsize=6, label=label)
    elif bands:
        low = [mean - spread for mean, spread in bands.values()]
        high = [mean + spread for mean, spread in bands.values()]
        ax.fill_between(list(bands), low, high, color=RANDOM, alpha=0.3, linewidth=0, label=label)


@in_house_style
def stability_figure(stability: RankingStability, ax: Axes | None = None) -> Axes:
    """How far rankings agree: a row per comparison, three measures, their 95% intervals.

    1 is the same ranking. Rows name the metric whose texts were resampled, or the two metrics.

    Args:
        stability: of `ranking_stability`.
        ax: axes to draw in; None for a figure of its own, which is `ax.figure`.
    """
    rows = stability.agreements
    names = [
        f"{each.metrics[0]}, other texts\ntop {each.k:,}"
        if each.over == "data"
        else f"{each.metrics[0]} / {each.metrics[1]}\ntop {each.k:,}"
        for each in rows
    ]
    if ax is None:
        left = max(2.3, 0.3 + 0.062 * max(len(name.partition("\n")[0]) for name in names))
        ax = new_axes(2.6, 0.42 * len(rows), left=left, right=1.6)
    for row, each in enumerate(rows):
        for index, (measure, mark) in enumerate(MEASURES.items()):
            mean, low, high = getattr(each, measure)
            y = row + (index - 1) * 0.22
            ax.plot([low, high], [y, y], color=LINES[index], linewidth=1.2)
            name = measure.replace("_", " ") if row == 0 else None
            ax.plot([mean], [y], mark, color=LINES[index], label=name)
    ax.set_yticks(range(len(rows)), names, parse_math=False, fontsize=7.5)
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlim=(min(0.0, *ax.get_xlim()), 1.03))
    ax.set_xlabel("agreement of two rankings")
    ax.tick_params(axis="y", length=0)
    ax.set_title(f"{stability.provenance.model}: stability", parse_math=False)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), handletextpad=0.1)
    return ax


ScoreRow = Mapping[Any, Any]

FAINTEST = 0.3
"""Of the scale of blues: the last ranks are seen on light paper and on dark."""


@in_house_style
def fidelity_figure(rows: Sequence[ScoreRow], trust: ScoreRow, ax: Axes | None = None) -> Axes:
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
def layer_figure(rows: Sequence[ScoreRow], metric: str, ax: Axes | None = None) -> Axes:
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
def head_figure(rows: Sequence[ScoreRow], metric: str, ax: Axes | None = None) -> Axes:
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


def _strata(rows: Sequence[ScoreRow]) -> list[str]:
    """From the first ranks to the last, weights drawn from all after."""
    named = dict.fromkeys(str(row["stratum"]) for row in rows)
    return sorted(named, key=lambda name: math.inf if name == "any" else int(name.split("-")[0]))


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
