"""Heads by depth, by reach and over training, the patterns of some, and the card of one."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from mi_toolkit.cards.card import HeadCard
from mi_toolkit.core.head import Head
from mi_toolkit.draw.cards import loss_strip, relation_strip
from mi_toolkit.draw.figures.style import (
    Sheet,
    axes_at,
    colour_map,
    draw_strip,
    heading,
    in_house_style,
    ink,
    line,
    muted_text,
    new_axes,
    title,
    write,
)
from mi_toolkit.draw.primitives import (
    LABELS,
    OTHER_LABEL,
    SCOPES,
    SEQUENTIAL,
    UNLABELLED,
    UNMEASURED,
)
from mi_toolkit.heads.labels import LOCAL_FROM
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.sweeps.training import HeadDynamics

LARGEST, SMALLEST = 150, 12
"""Area of a mark, in square points: what all heads of a layer add, and what is there for one."""


@in_house_style
def labels_by_depth(report: HeadReport, ax: Axes | None = None) -> Axes:
    """One row per label, layers across: the larger a mark, the more of the layer's heads carry it.

    The number of heads that carry a label stands at the right. Labels that no head carries are
    left out.

    Args:
        report: whose labels to show.
        ax: axes to draw in; None for a figure of its own, which is `ax.figure`.
    """
    found = {name: report.heads(name) for name in report.label_names}
    shown = {name: heads for name, heads in found.items() if heads}
    n_layers, n_heads = report.scope.shape
    if ax is None:
        ax = new_axes(4.2, 0.3 * max(len(shown), 1), left=1.45, right=0.5)
    for row, (name, heads) in enumerate(shown.items()):
        counts = Counter(head.layer for head in heads)
        ax.axhline(row, color=line(), linewidth=0.8, zorder=0)
        ax.scatter(
            list(counts),
            [row] * len(counts),
            s=[LARGEST * count / n_heads + SMALLEST for count in counts.values()],
            color=_visible(LABELS.get(name, OTHER_LABEL)),
            linewidths=0,
        )
        ax.annotate(
            str(len(heads)),
            (1.02, row),
            xycoords=ax.get_yaxis_transform(),
            va="center",
            fontsize=8,
            color=muted_text(),
        )
    ax.set_yticks(range(len(shown)), shown, parse_math=False)
    ax.set(xlim=(-0.7, n_layers - 0.3), ylim=(max(len(shown), 1) - 0.5, -0.5), xlabel="layer")
    if not shown:
        ax.annotate("no head has a label", (0.5, 0.5), xycoords="axes fraction", ha="center")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_title(f"{report.provenance.model}: labels by depth", parse_math=False)
    return ax


def _visible(colour: str) -> str:
    return ink() if colour == OTHER_LABEL else colour


UNDETERMINED = "#999999"
BIN = 0.1
Counts = np.ndarray[tuple[int], np.dtype[np.float64]]


@in_house_style
def locality_histogram(report: HeadReport, ax: Axes | None = None) -> Axes:
    """Heads by locality, coloured by scope; heads of layers with a window are hatched.

    0 is uniform attention over all earlier tokens, 1 the nearest token alone; the bar between
    `local` and `global` is dashed. Heads that rest on the first token have no locality, and are
    counted in the title.

    Args:
        report: with `locality`.
        ax: axes to draw in; None for a figure of its own, which is `ax.figure`.

    Raises:
        UnknownNameError: the report has no `locality`.
    """
    values = report["locality"]
    if ax is None:
        ax = new_axes(3.2, 2.2, right=1.7)
    low = min(0.0, float(values.nan_to_num(0.0).min()))
    edges = np.arange(np.floor(low / BIN) * BIN, 1 + BIN / 2, BIN)
    base = np.zeros(len(edges) - 1)
    for name, colour in SCOPES.items():
        in_scope = report.scope == report.scope_names.index(name)
        for has_window in (False, True):
            layers = [bool(window) == has_window for window in report.windows]
            chosen = [
                float(value)
                for layer, matches in enumerate(layers)
                for value in values[layer][in_scope[layer]]
                if matches and value == value
            ]
            base = _stack(ax, chosen, edges, base, _colour(name, colour), hatched=has_window)
    ax.axvline(LOCAL_FROM, color=ink(), linewidth=0.8, linestyle=(0, (3, 2)))
    ax.axvline(0, color=line(), linewidth=0.8, zorder=0)
    ax.set(xlabel="locality (0 uniform, 1 nearest)", ylabel="heads")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    without = int(values.isnan().sum())
    rest = f"; {without} without" if without else ""
    ax.set_title(f"{report.provenance.model}: how near heads look{rest}", parse_math=False)
    ax.legend(handles=_handles(report), loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return ax


def _colour(name: str, colour: str) -> str:
    return UNDETERMINED if name == "undetermined" else colour


def _stack(
    ax: Axes,
    values: Sequence[float],
    edges: Counts,
    base: Counts,
    colour: str,
    *,
    hatched: bool,
) -> Counts:
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    ax.bar(
        edges[:-1],
        counts,
        width=BIN * 0.92,
        align="edge",
        bottom=base,
        color=colour,
        hatch="////" if hatched else None,
        edgecolor="white",
        linewidth=0,
    )
    stacked: Counts = base + counts
    return stacked


def _handles(report: HeadReport) -> list[Patch]:
    shown = [
        Patch(facecolor=_colour(name, colour), label=name)
        for name, colour in SCOPES.items()
        if (report.scope == report.scope_names.index(name)).any()
    ]
    if any(report.windows):
        windowed = "in a windowed layer"
        shown.append(Patch(facecolor=muted_text(), hatch="////", edgecolor="white", label=windowed))
    return shown


MAX_TICKS = 40


@in_house_style
def pattern_grid(
    patterns: Float[Tensor, "head query key"], labels: Sequence[str], names: Sequence[str]
) -> Figure:
    """Attention patterns side by side, queries downwards, keys across.

    Tokens are named at the left and at the foot; of more than 40 only some, evenly spaced.
    """
    n_heads, n_tokens, _ = patterns.shape
    side = min(max(0.15 * n_tokens, 1.6), 5.0)
    n_columns = min(n_heads, max(1, round(12 / side)))
    n_rows = -(-n_heads // n_columns)
    margin = 0.4 + 0.062 * max(len(label) for label in labels)
    cell, foot = side + 0.4, margin + 0.1
    figure = Sheet(figsize=(margin + n_columns * cell + 0.7, n_rows * cell + foot))
    places = range(0, n_tokens, -(-n_tokens // MAX_TICKS))
    ticks = [labels[place] for place in places]
    for index, name in enumerate(names):
        row, column = divmod(index, n_columns)
        panel = axes_at(figure, margin + column * cell, 0.3 + row * cell, side, side)
        picture = _drawn(panel, patterns[index])
        panel.set_title(name, fontsize=9, loc="center")
        at_foot, at_left = index + n_columns >= n_heads, column == 0
        panel.set_xticks(
            places, ticks if at_foot else [], rotation=90, fontsize=7, **_as_written(at_foot)
        )
        panel.set_yticks(places, ticks if at_left else [], fontsize=7, **_as_written(at_left))
        panel.tick_params(length=2, color="#999999")
    _bar(figure, picture, 0.3, min(side, 2.5))
    figure.text(
        0.1 / figure.get_figwidth(),
        0.12 / figure.get_figheight(),
        "rows: the token that looks (query); columns: the token looked at (key); colour: attention",
        fontsize=8,
    )
    return figure


@in_house_style
def pattern_map(
    pattern: Float[Tensor, "query key"],
    tokens: Sequence[str],
    name: str = "",
    ax: Axes | None = None,
) -> Axes:
    """One attention pattern: queries downwards, keys across, 0 white to 1 dark.

    Args:
        pattern: attention from each query to each key, in [0, 1].
        tokens: the text of each.
        name: the title, such as the head's.
        ax: axes to draw in; None for a figure of its own, which is `ax.figure`.
    """
    n_tokens = len(tokens)
    if ax is None:
        side = min(max(0.17 * n_tokens, 1.6), 5.0)
        margin = 0.3 + 0.062 * max(map(len, tokens))
        ax = new_axes(side, side, left=margin, bottom=margin)
    _drawn(ax, pattern)
    places = range(0, n_tokens, -(-n_tokens // MAX_TICKS))
    shown = [tokens[place] for place in places]
    ax.set_xticks(places, shown, rotation=90, fontsize=7, parse_math=False)
    ax.set_yticks(places, shown, fontsize=7, parse_math=False)
    ax.set_title(name, parse_math=False)
    return ax


def _drawn(ax: Axes, pattern: Float[Tensor, "query key"]) -> Any:
    shades = colour_map(SEQUENTIAL).with_extremes(bad=UNMEASURED)
    future = ~np.tri(len(pattern), dtype=bool)
    ax.spines[:].set_visible(True)
    shown = np.ma.array(pattern.numpy(), mask=future)
    return ax.imshow(shown, cmap=shades, vmin=0, vmax=1, aspect="auto", interpolation="none")


def _bar(figure: Figure, picture: Any, y: float, height: float) -> None:
    at = axes_at(figure, figure.get_figwidth() - 0.65, y, 0.12, height)
    figure.colorbar(picture, cax=at)
    at.tick_params(labelsize=7, length=2)


def _as_written(labels: bool) -> dict[str, bool]:
    """A token such as `$x$` is no formula; without labels there is nothing to say it of."""
    return {"parse_math": False} if labels else {}


MOST_LABELS, MOST_LINES, MOST_ROWS = 5, 6, 10
"""Of dynamics: labels with panels, heads with a line of their own, and with a row."""


@in_house_style
def dynamics_figure(dynamics: HeadDynamics) -> Figure:
    """Heads over training: of each label the figures by step, which heads have it, and when.

    On the left each head's figure, with a band over its 95% interval for those that carry the label
    most often, and a grey band where the label's onset lies; in the middle, at which checkpoints a
    head carries it; on the right the layer of each head by its onset.
    """
    shown = [name for name in dynamics.label_names if _carriers(dynamics, name)][:MOST_LABELS]
    height, between = 1.5, 0.75
    figure = Sheet(figsize=(11.4, 0.9 + max(1, len(shown)) * (height + between)))
    title(figure, dynamics.title())
    for place, name in enumerate(shown):
        y = 0.85 + place * (height + between)
        colour = _visible(LABELS.get(name, OTHER_LABEL))
        curves, strip, onsets = (
            axes_at(figure, x, y, width, height)
            for x, width in ((0.65, 3.6), (5.1, 3.0), (8.75, 2.4))
        )
        curves.set_title(name, fontsize=9, loc="left", parse_math=False)
        heads = _carriers(dynamics, name)
        _draw_curves(curves, dynamics, name, heads, colour)
        _draw_strip_of_labels(strip, dynamics, name, heads[:MOST_ROWS], colour)
        _draw_onsets(onsets, dynamics, name, heads, colour)
    return figure


def _carriers(dynamics: HeadDynamics, label: str) -> list[Head]:
    """The heads that ever carry a label, those that do so most often first."""
    times = dynamics.labels[:, dynamics.index(label)].sum(dim=0)
    found = [Head(*place) for place in times.nonzero().tolist()]
    return sorted(found, key=lambda head: -int(times[head]))


def _training(dynamics: HeadDynamics) -> tuple[str, list[int]]:
    """What training is measured in: tokens where they are known, else steps."""
    seen = [tokens for tokens in dynamics.tokens if tokens is not None]
    if len(seen) == len(dynamics.steps):
        return "training tokens", seen
    return "training step", [*dynamics.steps]


def _over_training(ax: Axes, dynamics: HeadDynamics, words: str = "") -> list[int]:
    """An axis of training, as a logarithm with a 0; the checkpoints on it."""
    name, places = _training(dynamics)
    ax.set_xscale("symlog", linthresh=max(1, next(place for place in places if place)))
    ax.set_xlim(places[0], places[-1] * 1.05)
    ax.tick_params(labelsize=7, length=2)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_xlabel(f"{name}{words}", fontsize=7, labelpad=1)
    return places


def _draw_curves(
    ax: Axes, dynamics: HeadDynamics, label: str, heads: Sequence[Head], colour: str
) -> None:
    row, places = dynamics.index(label), _over_training(ax, dynamics)
    n_layers, n_heads = dynamics.figure.shape[2:]
    for head in (Head(l, h) for l in range(n_layers) for h in range(n_heads)):
        if head not in heads[:MOST_LINES]:
            values = dynamics.figure[:, row, head.layer, head.head]
            ax.plot(places, values, color=UNLABELLED, linewidth=0.6)
    for head in heads[:MOST_LINES]:
        place = (slice(None), row, head.layer, head.head)
        ends = dynamics.ci_low[place].numpy(), dynamics.ci_high[place].numpy()
        ax.fill_between(places, *ends, color=colour, alpha=0.15, linewidth=0)
        ax.plot(places, dynamics.figure[place], color=colour, linewidth=1.4)
    last = dynamics.figure[-1, row]
    free = float("inf")
    for head in sorted(heads[:MOST_LINES], key=lambda head: -float(last[head].nan_to_num(-9.0))):
        if last[head].isfinite():
            free = min(float(last[head]), free - 0.1)
            ax.annotate(f" {head}", (places[-1] * 1.05, free), fontsize=6.5, va="center")
    onset = dynamics.course(label).onset
    if onset is not None:
        low, high = places[onset.low], places[onset.high]
        ax.axvspan(low, high, color=line(), alpha=0.6, linewidth=0, zorder=0)


def _draw_strip_of_labels(
    ax: Axes, dynamics: HeadDynamics, label: str, heads: Sequence[Head], colour: str
) -> None:
    row = dynamics.index(label)
    for y, head in enumerate(heads):
        carried = dynamics.labels[:, row, head.layer, head.head].tolist()
        for x, carries in enumerate(carried):
            face = colour if carries else "none"
            ax.plot([x], [y], "s", color=face, markersize=5, markeredgecolor=line())
    ax.set_yticks(range(len(heads)), [str(head) for head in heads], fontsize=6.5)
    ax.set_ylim(max(len(heads), 4) - 0.5, -0.7)
    n = len(dynamics.steps)
    places = sorted({round(k * (n - 1) / 7) for k in range(8)})
    ax.set_xticks(places, [f"{dynamics.steps[p]:,}" for p in places], fontsize=6.5, rotation=30)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("carries the label at step", fontsize=7, labelpad=1)


def _draw_onsets(
    ax: Axes, dynamics: HeadDynamics, label: str, heads: Sequence[Head], colour: str
) -> None:
    places = _over_training(ax, dynamics, ": onset")
    for head in heads:
        onset = dynamics.course(label, head).onset
        if onset is not None:
            low, at, high = (places[k] for k in (onset.low, onset.at, onset.high))
            ax.plot([low, high], [head.layer] * 2, color=colour, linewidth=1.2, alpha=0.5)
            ax.plot([at], [head.layer], "o", color=colour, markersize=4)
    ax.set_ylim(dynamics.figure.shape[2] - 0.5, -0.5)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    ax.set_ylabel("layer", fontsize=7)


LEFT, WIDTH, ROW = 2.1, 3.6, 0.24
"""Inches of names, of a panel next to them, and of a row."""

LINE, SIGNS = 0.18, 140
"""Inches of a line of words, and the signs that it has room for."""


@in_house_style
def card_figure(card: HeadCard) -> Figure:
    """A head's card as a picture: the lift of each relation, and what ablating it costs.

    Left, each relation's lift with its 95% interval, and a dot for the lift by attention alone.
    Right, for the first kind of ablation, the change of the loss by kind of predicted token, with a
    dot for each other head of the layer. Below, the card in words.
    """
    losses = [loss for loss in card.losses if loss.how == card.losses[0].how]
    words = [(name, textwrap.wrap(said, SIGNS) or [""]) for name, said in card.text_table().rows]
    below = 1.35 + ROW * max(len(card.relations), len(losses))
    n_lines = sum(len(lines) for _, lines in words)
    figure = Sheet(figsize=(2 * (LEFT + WIDTH) + 0.3, below + LINE * n_lines + 0.2))
    title(figure, card.title())
    panels = [
        ("lift over chance of what it moves (dot: by attention alone)",
         [(each.relation, relation_strip(each)) for each in card.relations]),
    ]  # fmt: skip
    if losses:
        panel = f"loss in nats, {losses[0].how} ablation (dots: other heads)"
        panels.append((panel, [(loss.kind, loss_strip(loss)) for loss in losses]))
    for column, (name, rows) in enumerate(panels):
        x = LEFT + column * (WIDTH + LEFT)
        ax = axes_at(figure, x, 0.85, WIDTH, ROW * len(rows))
        heading(figure, x, 0.6, name)
        ax.axvline(0, color=muted_text(), linewidth=0.8)
        for y, (_, strip) in enumerate(rows):
            draw_strip(ax, y, strip, dots="#777777")
        ax.set_yticks(range(len(rows)), [label for label, _ in rows], fontsize=8)
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.tick_params(axis="x", labelsize=7, length=2)
        ax.tick_params(axis="y", length=0)
        ax.spines[["top", "right", "left"]].set_visible(False)
    down = below
    for name, lines in words:
        write(figure, LEFT - 0.15, down, name, fontsize=8, ha="right", va="top", color=muted_text())
        for row in lines:
            write(figure, LEFT, down, row, fontsize=8, va="top")
            down += LINE
    return figure
