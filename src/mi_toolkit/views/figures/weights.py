"""Critical weights: what changing them does beside controls, and how far to trust a ranking."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from mi_toolkit.errors import unknown_name
from mi_toolkit.sensitivity.dose_curve import PerturbationTest
from mi_toolkit.sensitivity.stability import RankingStability
from mi_toolkit.views.colours import LINES
from mi_toolkit.views.figures.sheet import new_axes
from mi_toolkit.views.figures.style import in_house_style, line

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
    """The rise in loss by how many weights are changed: the top beside its controls.

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
            ax.plot(list(drawn), list(drawn.values()), mark, color=colour, label=name)
    ax.set_xticks(range(len(doses)), [f"{dose:,}" for dose in doses])
    ax.set(xlabel="weights changed", ylabel="rise in loss (nats per token)")
    ax.set_title(f"{metric}, {kind}", parse_math=False)
    ax.legend()
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
    if ax is None:
        ax = new_axes(2.6, 0.42 * len(rows), left=2.3, right=1.6)
    for row, each in enumerate(rows):
        for index, (measure, mark) in enumerate(MEASURES.items()):
            mean, low, high = getattr(each, measure)
            y = row + (index - 1) * 0.22
            ax.plot([low, high], [y, y], color=LINES[index], linewidth=1.2)
            name = measure.replace("_", " ") if row == 0 else None
            ax.plot([mean], [y], mark, color=LINES[index], label=name)
    names = [
        f"{each.metrics[0]}, other texts\ntop {each.k:,}"
        if each.over == "data"
        else f"{each.metrics[0]} / {each.metrics[1]}\ntop {each.k:,}"
        for each in rows
    ]
    ax.set_yticks(range(len(rows)), names, parse_math=False, fontsize=7.5)
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlim=(min(0.0, *ax.get_xlim()), 1.03))
    ax.set_xlabel("agreement of two rankings")
    ax.tick_params(axis="y", length=0)
    ax.set_title(f"{stability.provenance.model}: stability", parse_math=False)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), handletextpad=0.1)
    return ax
