"""Side by side: models, runs, stimuli, and models of growing size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mi_toolkit.compare.model_comparison import LabelProfile, ModelComparison
from mi_toolkit.compare.stimuli import StimulusComparison, StimulusPair, labelled_heads
from mi_toolkit.core.errors import unknown_name
from mi_toolkit.draw.figures.style import (
    Sheet,
    axes_at,
    colour_map,
    in_house_style,
    ink,
    line,
    line_colours,
    muted_text,
    new_axes,
    title,
    write,
)
from mi_toolkit.draw.primitives import (
    LABELS,
    LINES,
    SCOPES,
    SEQUENTIAL,
    UNLABELLED,
    UNMEASURED,
    ink_on,
    shade,
)
from mi_toolkit.weights.run_comparison import RunComparison

CELL, ROW = 0.78, 0.32
TOP, CAPTION = 1.5, 0.3
MATRIX_ROW = 0.46
SPREAD = 0.22
"""How far apart heads of one depth stand in a row, in rows."""


@in_house_style
def comparison_grid(comparison: ModelComparison) -> Figure:
    """Shares and depths per label, one row per model, and the agreement of each pair."""
    models, n_models = comparison.models, len(comparison.models)
    profiles = [_by_label(comparison.profiles(name)) for name in models]
    labels = _labels(profiles)
    rows = [[model.get(label) for label in labels] for model in profiles]
    left = 0.35 + 0.085 * max(map(len, models))
    height, matrix = n_models * ROW, n_models * MATRIX_ROW
    depths = TOP + height + CAPTION + 0.3
    pairs = depths + height + 0.35 + CAPTION + 0.4 + 0.055 * max(map(len, models))
    width = left + max(len(labels) * CELL + 0.6, n_models * CELL + 2.9)
    figure = Sheet(figsize=(width, pairs + matrix + 0.25))
    title(figure, f"Heads of {n_models} models on the same text")
    _draw_shares(axes_at(figure, left, TOP, len(labels) * CELL, height), models, labels, rows)
    _say(figure, left, TOP + height, "Heads with each label; grey: the text cannot show it")
    for column in range(len(labels)):
        ax = axes_at(figure, left + (column + 0.07) * CELL, depths, CELL * 0.86, height)
        _draw_depths(ax, [row[column] for row in rows])
        if column == 0:
            ax.set_yticks(range(n_models), models, fontsize=8, parse_math=False)
    _say(
        figure,
        left,
        depths + height + 0.2,
        "Where in depth these lie: 0 the embedding, 1 the unembedding; bar: quartiles and median",
    )
    _draw_agreement(axes_at(figure, left, pairs, n_models * CELL, matrix), comparison)
    _say(
        figure,
        left + n_models * CELL + 0.1,
        pairs,
        "Next-token agreement where both\nmodels have just finished a token;\n"
        "colour: beyond chance. Diagonal:\nhow often the model itself is right.",
    )
    return figure


def _labels(profiles: Sequence[Mapping[str, LabelProfile]]) -> list[str]:
    """Every label, then the scope `local`: `global` is most of the rest."""
    names = dict.fromkeys(name for model in profiles for name in model)
    return [name for name in names if name not in ("global", "undetermined")]


def _by_label(profiles: Sequence[LabelProfile]) -> dict[str, LabelProfile]:
    return {shown.label: shown for shown in profiles}


def _draw_shares(
    ax: Axes,
    models: Sequence[str],
    labels: Sequence[str],
    rows: Sequence[Sequence[LabelProfile | None]],
) -> None:
    shares = [[math.nan if c is None else c.share for c in row] for row in rows]
    texts = [
        ["" if c is None or not c.applicable else f"{c.count}  ({c.share:.0%})" for c in row]
        for row in rows
    ]
    _shaded(ax, shares, texts, fontsize=7)
    _name(ax, models, labels)


def _shaded(
    ax: Axes,
    shares: Sequence[Sequence[float]],
    texts: Sequence[Sequence[str]],
    *,
    fontsize: float = 6.5,
    unknown: str = UNMEASURED,
) -> None:
    """A grid of shares in blues, `unknown` for NaN, with a text in each cell."""
    shades = colour_map(SEQUENTIAL).with_extremes(bad=unknown)
    ax.imshow(np.ma.masked_invalid(shares), cmap=shades, vmin=0, vmax=1, aspect="auto")
    for y, row in enumerate(texts):
        for x, text in enumerate(row):
            share = shares[y][x]
            ink = ink_on(unknown if share != share else shade(share, SEQUENTIAL))
            ax.text(x, y, text, ha="center", va="center", fontsize=fontsize, color=ink)


def _name(ax: Axes, rows: Sequence[str], columns: Sequence[str]) -> None:
    ax.set_yticks(range(len(rows)), rows, fontsize=8, parse_math=False)
    ax.set_xticks(
        range(len(columns)),
        columns,
        fontsize=8,
        rotation=35,
        ha="left",
        rotation_mode="anchor",
        parse_math=False,
    )
    ax.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    ax.spines[:].set_visible(False)


def _draw_depths(ax: Axes, column: Sequence[LabelProfile | None]) -> None:
    colour = LINES[0]
    ax.set(xlim=(0, 1), ylim=(len(column) - 0.5, -0.5))
    ax.set_yticks([])
    ax.set_xticks([0, 0.5, 1], ["0", "½", "1"], fontsize=6.5)
    ax.tick_params(axis="x", length=2)
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)
    for y, shown in enumerate(column):
        ax.axhline(y, color=line(), linewidth=0.8, zorder=0)
        if shown is None or not shown.count:
            continue
        low, middle, high = shown.depth_quartiles
        ax.plot([low, high], [y, y], color=colour, linewidth=4.5, alpha=0.35, solid_capstyle="butt")
        ax.plot([middle], [y], "|", color=colour, markersize=9, markeredgewidth=1.8)
        ax.plot(shown.depths, y + _apart(shown.depths), ".", color=colour, markersize=3)


def _apart(depths: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Heads of one depth next to each other, within a row."""
    found = np.zeros(len(depths))
    for depth in set(depths):
        at = [index for index, other in enumerate(depths) if other == depth]
        found[at] = np.linspace(-SPREAD, SPREAD, len(at)) if len(at) > 1 else 0.0
    return found


def _draw_agreement(ax: Axes, comparison: ModelComparison) -> None:
    a, models = comparison.agreement, comparison.models

    def text(y: int, x: int) -> str:
        if x == y:
            return f"{comparison.accuracy[models[y]]:.0%}\nright"
        if not a.positions[y, x]:
            return "no shared\nposition"
        return f"{float(a.share[y, x]):.0%}\nchance {float(a.chance[y, x]):.0%}"

    places = range(len(models))
    lift = a.lift.clone().fill_diagonal_(math.nan).tolist()
    _shaded(ax, lift, [[text(y, x) for x in places] for y in places], unknown="#f4f4f4")
    _name(ax, models, models)


def _say(figure: Figure, x: float, y: float, text: str) -> None:
    """A line of explanation with its upper left corner at `x`, `y`, in inches."""
    write(figure, x, y + 0.08, text, fontsize=8, color=muted_text(), va="top")


COMPONENTS = ("W_Q", "W_K", "W_V", "W_O", "W_in", "W_gate", "W_out")
PALETTE = dict(
    zip(
        COMPONENTS,
        ("#9ecae1", "#4292c6", "#08519c", "#08306b", "#fdb863", "#e08214", "#b35806"),
        strict=True,
    )
)
"""Attention in blues, the MLP in browns."""

RUNS_LEFT, WIDTH, RUNS_ROW = 2.4, 4.6, 0.34


@in_house_style
def run_comparison_figure(comparison: RunComparison) -> Figure:
    """Three panels: the tops by depth, by component, and their overlap pair by pair.

    By depth the height is the share of the top in a block times the number of blocks: 1 where the
    top is spread evenly, whatever the model's depth.
    """
    n = len(comparison.runs)
    height = 0.9 + 2.2 + 0.9 + n * RUNS_ROW + 1.0 + n * RUNS_ROW + 0.8
    figure = Sheet(figsize=(RUNS_LEFT + WIDTH + 1.6, height))
    title(figure, f"The top {comparison.k:,} weights by {comparison.metric}")
    _depth(axes_at(figure, 0.7, 0.75, RUNS_LEFT + WIDTH - 0.7, 2.2), comparison)
    top = 0.75 + 2.2 + 0.95
    _components(axes_at(figure, RUNS_LEFT, top, WIDTH, n * RUNS_ROW), comparison)
    top += n * RUNS_ROW + 1.0
    _overlap(axes_at(figure, RUNS_LEFT, top, max(1.2, n * 0.62), n * RUNS_ROW), comparison)
    return figure


def _depth(ax: Axes, comparison: RunComparison) -> None:
    colours = line_colours()
    for index, run in enumerate(comparison.runs):
        span = max(1, run.n_layers - 1)
        places = [layer / span for layer in range(run.n_layers)]
        shares = [share * run.n_layers for share in run.profile]
        colour = colours[index % len(colours)]
        style = "-" if index < len(colours) else "--"
        ax.plot(places, shares, style, color=colour, marker="o", markersize=3, label=run.name)
    ax.axhline(1, color=line(), linewidth=0.8, zorder=0)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("depth: 0 the first block, 1 the last", fontsize=8)
    ax.set_ylabel("times an even spread", fontsize=8)
    ax.tick_params(labelsize=7)
    ax.legend(fontsize=7)


def _components(ax: Axes, comparison: RunComparison) -> None:
    names = sorted(
        comparison.components,
        key=lambda name: (COMPONENTS.index(name) if name in COMPONENTS else 99, name),
    )
    starts = [0.0] * len(comparison.runs)
    for name in names:
        shares = [run.components.get(name, 0.0) for run in comparison.runs]
        colour = PALETTE.get(name, "#999999")
        ax.barh(range(len(shares)), shares, left=starts, height=0.7, color=colour, label=name)
        starts = [start + share for start, share in zip(starts, shares, strict=True)]
    _name_rows(ax, comparison)
    ax.set_xlim(0, 1)
    ax.set_xlabel("share of the top in each kind of matrix", fontsize=8)
    ax.tick_params(axis="x", labelsize=7)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _overlap(ax: Axes, comparison: RunComparison) -> None:
    n = len(comparison.runs)
    places, weights = comparison.places.tolist(), comparison.weights.tolist()
    texts = [
        [f"{value:.2f}" + ("" if same != same else f"\n({same:.2f})") for value, same in pairs]
        for pairs in map(zip, places, weights)
    ]
    _shaded(ax, places, texts)
    _name_rows(ax, comparison)
    ax.set_xticks(range(n), [str(index + 1) for index in range(n)], fontsize=7)
    ax.set_xlabel("overlap by depth and component (in brackets: the same weights)", fontsize=8)
    ax.tick_params(length=0)


def _name_rows(ax: Axes, comparison: RunComparison) -> None:
    names = [f"{run.name}  {index + 1}" for index, run in enumerate(comparison.runs)]
    ax.set_yticks(range(len(names)), names, fontsize=8, parse_math=False)
    ax.set_ylim(len(names) - 0.5, -0.5)


SIDE, GAP_ACROSS, GAP_DOWN = 1.9, 0.75, 0.95
STIMULI_LEFT, STIMULI_TOP, COLUMNS = 0.65, 0.95, 4
KINDS = {
    (True, True): ("labelled on both", LINES[0], "o"),
    (True, False): ("on the first alone", LINES[1], "^"),
    (False, True): ("on the second alone", LINES[2], "s"),
    (False, False): ("on neither", UNLABELLED, "."),
}


@in_house_style
def stimulus_grid(comparison: StimulusComparison) -> Figure:
    """One panel per behaviour and pair of stimuli, one mark per head, by whether it is labelled."""
    pairs = comparison.pairs
    n_columns = min(COLUMNS, max(1, len(pairs)))
    n_rows = -(-len(pairs) // n_columns)
    figure = Sheet(
        figsize=(
            STIMULI_LEFT + n_columns * (SIDE + GAP_ACROSS),
            STIMULI_TOP + n_rows * (SIDE + GAP_DOWN) + 0.1,
        )
    )
    title(figure, f"Heads of {comparison.model} from one stimulus to another")
    for index, pair in enumerate(pairs):
        row, column = divmod(index, n_columns)
        x, y = STIMULI_LEFT + column * (SIDE + GAP_ACROSS), STIMULI_TOP + row * (SIDE + GAP_DOWN)
        _draw(axes_at(figure, x, y, SIDE, SIDE), comparison, pair)
    figure.legend(
        handles=[
            figure.axes[0].plot([], [], mark, color=colour, label=name)[0]
            for name, colour, mark in KINDS.values()
        ]
        if figure.axes
        else [],
        loc="lower left",
        ncols=4,
        fontsize=8,
        frameon=False,
        handletextpad=0.2,
    )
    return figure


def _draw(ax: Axes, comparison: StimulusComparison, pair: StimulusPair) -> None:
    one, other = comparison.reports[pair.stimulus], comparison.reports[pair.other]
    across, down = one[pair.behaviour].flatten(), other[pair.behaviour].flatten()
    ax.axline((0, 0), slope=1, color=line(), linewidth=0.8)
    ax.axhline(0, color=line(), linewidth=0.8)
    ax.axvline(0, color=line(), linewidth=0.8)
    first, second = (labelled_heads(report, pair.behaviour) for report in (one, other))
    for (here, there), (_, colour, mark) in reversed(KINDS.items()):
        chosen = (first == here) & (second == there)
        ax.plot(across[chosen], down[chosen], mark, color=colour, markersize=4, alpha=0.8)
    low = -1.05 if pair.behaviour == "locality" else -0.15
    low = min(low, *(float(figures.nan_to_num(0.0).min()) - 0.05 for figures in (across, down)))
    ax.set(xlim=(low, 1.05), ylim=(low, 1.05))
    ax.set_xlabel(pair.stimulus, fontsize=7.5)
    ax.set_ylabel(pair.other, fontsize=7.5)
    ax.tick_params(labelsize=7, length=2)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title(
        f"{pair.behaviour}\nrank correlation {pair.rank_correlation:.2f}", fontsize=9, loc="left"
    )


@in_house_style
def scaling_figure(
    comparison: ModelComparison, labels: Sequence[str] | None = None, ax: Axes | None = None
) -> Axes:
    """The share of heads with each label by parameters (embeddings left out), a line per label.

    A line joins models of one family; families have marks of their own. A label that a model's
    text cannot show has no mark there.

    Args:
        comparison: of `compare_models`.
        labels: labels, scopes or `unclassified`; None for the labels that any model has.
        ax: axes to draw in; None for a figure of its own, which is `ax.figure`.

    Raises:
        UnknownNameError: a label that no report has.
    """
    shares = {
        name: {shown.label: shown.share for shown in comparison.profiles(name)}
        for name in comparison.models
    }
    known = list(dict.fromkeys(label for shown in shares.values() for label in shown))
    chosen = _carried(comparison) if labels is None else list(labels)
    for label in chosen:
        if label not in known:
            raise unknown_name("label of this comparison", label, known)
    if ax is None:
        ax = new_axes(3.4, 2.4, right=1.55)
    families = list(dict.fromkeys(comparison.facts[name].family for name in comparison.models))
    for label in chosen:
        for family, mark in zip(families, "oDs^v<>phX" * len(families), strict=False):
            models = [name for name in comparison.models if _family(comparison, name) == family]
            models.sort(key=lambda name: comparison.facts[name].parameters)
            ax.plot(
                [comparison.facts[name].parameters for name in models],
                [shares[name].get(label, float("nan")) for name in models],
                f"{mark}-",
                color={**SCOPES, **LABELS}.get(label, ink()),
                label=label if family == families[0] else None,
            )
    ax.set_xscale("log")
    ax.set(xlabel="parameters without embeddings", ylabel="share of heads")
    ax.set_ylim(bottom=0)
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    named = ", ".join(families) if len(families) < 4 else f"{len(families)} families"
    ax.set_title(f"Labels by size: {named}", parse_math=False)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return ax


def _family(comparison: ModelComparison, name: str) -> str:
    return comparison.facts[name].family


def _carried(comparison: ModelComparison) -> list[str]:
    """The labels that any head of any model carries; neither scopes nor `unclassified`."""
    found: dict[str, None] = {}
    for report in comparison.reports.values():
        found.update(dict.fromkeys(name for name in report.label_names if report.heads(name)))
    return list(found)
