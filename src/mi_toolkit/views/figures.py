"""Pictures by matplotlib, whose only door this is: head maps and patterns, for papers and slides.

Figures are made without pyplot, so that nobody's current figure, style or backend changes, and
laid out in inches: matplotlib's own layout engine takes seconds over a large model's ticks.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from mi_toolkit.files import written_whole
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.views import head_maps
from mi_toolkit.views.colours import FRAME, SEQUENTIAL, UNMEASURED, ink_on
from mi_toolkit.views.head_maps import Cell, HeadMap, Scale

CELL_WIDTH, CELL_HEIGHT = 0.34, 0.24
TOP, BOTTOM, RIGHT = 0.45, 0.5, 1.25
MAP_COLUMNS = 3
MAX_TICKS = 40
DOTS_PER_INCH = 160

FONTS = (
    "DejaVu Sans|Noto Sans CJK SC|Noto Sans CJK JP|Microsoft YaHei|PingFang SC|Hiragino Sans GB|"
    "Arial Unicode MS"
).split("|")


def head_map(report: HeadReport, behaviour: str, ax: Axes | None = None) -> Axes:
    """One behaviour, head by head: layers downwards, heads across, labelled heads framed.

    Colour is lift (0 chance, 1 perfect; below chance is white) or the value of a distribution
    behaviour; locality, which goes below 0, has a colour for each side. In small models every
    figure is written in its cell, in others those of the labelled and the strongest heads. A
    head without a figure is hatched.

    Args:
        report: whose figures to show.
        behaviour: one of the report's.
        ax: axes to draw in; None for a figure of its own, which is `ax.figure`.

    Raises:
        UnknownNameError: the report does not have the behaviour.
    """
    return _drawn(head_maps.behaviour_map(report, behaviour), ax)


def scope_map(report: HeadReport, ax: Axes | None = None) -> Axes:
    """Which heads look near and which far, with each layer's declared window at its number."""
    return _drawn(head_maps.scope_map(report), ax)


def label_map(report: HeadReport, ax: Axes | None = None) -> Axes:
    """Every head's labels at once, a strip of colour for each; unclassified heads stay grey."""
    return _drawn(head_maps.label_map(report), ax)


def report_grid(report: HeadReport) -> Figure:
    """All maps of a report as one picture."""
    maps = head_maps.maps_of(report)
    n_columns = min(MAP_COLUMNS, len(maps))
    n_rows = -(-len(maps) // n_columns)
    width, height = _panel_size(maps[0])
    figure = Figure(figsize=(n_columns * width, n_rows * height + 0.5))
    for index, shown in enumerate(maps):
        row, column = divmod(index, n_columns)
        _drawn(shown, _panel(figure, shown, column * width, 0.5 + row * height))
    figure.text(
        0.12 / figure.get_figwidth(),
        1 - 0.3 / figure.get_figheight(),
        f"Heads of {report.provenance.model}",
        fontsize=13,
        weight="bold",
        parse_math=False,
    )
    return figure


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
    figure = Figure(figsize=(margin + n_columns * cell + 0.7, n_rows * cell + foot))
    shades = _colour_map(SEQUENTIAL).with_extremes(bad=UNMEASURED)
    future = ~np.tri(n_tokens, dtype=bool)
    places = range(0, n_tokens, -(-n_tokens // MAX_TICKS))
    ticks = [labels[place] for place in places]
    for index, name in enumerate(names):
        row, column = divmod(index, n_columns)
        panel = _axes_at(figure, margin + column * cell, 0.3 + row * cell, side, side)
        picture = panel.imshow(
            np.ma.array(patterns[index].numpy(), mask=future),
            cmap=shades,
            vmin=0,
            vmax=1,
            aspect="auto",
        )
        panel.set_title(name, fontsize=9)
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


def save_png(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure to a PNG file, whole or not at all."""
    installed = {font.name for font in fontManager.ttflist}
    with (
        written_whole(path) as draft,
        mpl.rc_context({"font.family": [font for font in FONTS if font in installed]}),
        warnings.catch_warnings(),
    ):
        # A script that no installed font has is shown as boxes, which says as much.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(draft, format="png", dpi=DOTS_PER_INCH, facecolor="white")


def _drawn(shown: HeadMap, ax: Axes | None) -> Axes:
    if ax is None:
        ax = _panel(Figure(figsize=_panel_size(shown)), shown, 0.0, 0.0)
    n_layers = len(shown.layers)
    ax.set(xlim=(0, shown.n_heads), ylim=(n_layers, 0))
    ax.set_xlabel("head", fontsize=8)
    ax.set_ylabel("layer", fontsize=8)
    ax.set_xticks([head + 0.5 for head in range(shown.n_heads)], map(str, range(shown.n_heads)))
    ax.set_yticks([layer + 0.5 for layer in range(n_layers)], shown.layers)
    ax.tick_params(length=0, labelsize=7)
    ax.spines[:].set_visible(False)
    ax.set_title(f"{shown.title} ({shown.subtitle})", fontsize=9, loc="left", parse_math=False)
    if shown.values is not None and shown.scale is not None:
        _draw_figures(ax, shown.values, shown.scale)
    else:
        _draw_strips(ax, shown)
    for cell in shown.cells:
        _mark(ax, cell)
    if not any(cell.is_measured for cell in shown.cells):
        ax.text(
            0.5,
            0.5,
            "not applicable",
            transform=ax.transAxes,
            ha="center",
            va="center",
            backgroundcolor="white",
        )
    return ax


def _draw_figures(ax: Axes, values: Float[Tensor, "layer head"], scale: Scale) -> None:
    mesh = ax.pcolormesh(
        values.numpy(),
        cmap=_colour_map(scale.stops),
        norm=Normalize(scale.low, 1),
        edgecolors="white",
        linewidth=0.5,
    )
    bar = ax.figure.colorbar(mesh, cax=ax.inset_axes((1.02, 0, 0.35 / values.shape[1], 1)))
    bar.ax.tick_params(labelsize=7, length=2)
    bar.outline.set_visible(False)


def _draw_strips(ax: Axes, shown: HeadMap) -> None:
    strips = [
        Rectangle(
            (cell.head.head + index / len(cell.colours), cell.head.layer),
            1 / len(cell.colours),
            1,
            facecolor=colour,
        )
        for cell in shown.cells
        for index, colour in enumerate(cell.colours)
    ]
    ax.add_collection(PatchCollection(strips, match_original=True))
    grid = [Rectangle((cell.head.head, cell.head.layer), 1, 1) for cell in shown.cells]
    ax.add_collection(PatchCollection(grid, facecolor="none", edgecolor="white", linewidth=0.5))
    ax.legend(
        handles=[Patch(facecolor=colour, label=name) for name, colour in shown.legend.items()],
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        frameon=False,
        fontsize=7,
        handlelength=1,
        handleheight=1,
        borderaxespad=0.2,
    )


def _mark(ax: Axes, cell: Cell) -> None:
    corner = (cell.head.head, cell.head.layer)
    if not cell.is_measured:
        ax.add_patch(
            Rectangle(
                corner,
                1,
                1,
                facecolor=cell.colours[0],
                edgecolor="white",
                hatch="///",
                linewidth=0.5,
            )
        )
    if cell.is_framed:
        ax.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=FRAME, linewidth=1.4))
    if cell.text:
        ax.text(
            corner[0] + 0.5,
            corner[1] + 0.5,
            cell.text,
            ha="center",
            va="center",
            fontsize=6.5,
            color=ink_on(cell.colours[0]),
        )


def _panel_size(shown: HeadMap) -> tuple[float, float]:
    return (
        max(_left(shown) + shown.n_heads * CELL_WIDTH + RIGHT, 3.2),
        TOP + max(len(shown.layers), 5) * CELL_HEIGHT + BOTTOM,
    )


def _panel(figure: Figure, shown: HeadMap, x: float, y: float) -> Axes:
    width, height = shown.n_heads * CELL_WIDTH, len(shown.layers) * CELL_HEIGHT
    return _axes_at(figure, x + _left(shown), y + TOP, width, height)


def _left(shown: HeadMap) -> float:
    return 0.4 + 0.065 * max(len(name) for name in shown.layers)


def _axes_at(figure: Figure, x: float, y: float, width: float, height: float) -> Axes:
    """Axes with their upper left corner at `x`, `y`; all in inches from the figure's own."""
    across, down = figure.get_figwidth(), figure.get_figheight()
    return figure.add_axes((x / across, 1 - (y + height) / down, width / across, height / down))


def _bar(figure: Figure, picture: Any, y: float, height: float) -> None:
    at = _axes_at(figure, figure.get_figwidth() - 0.65, y, 0.12, height)
    figure.colorbar(picture, cax=at)
    at.tick_params(labelsize=7, length=2)


def _colour_map(stops: Sequence[str]) -> LinearSegmentedColormap:
    return LinearSegmentedColormap.from_list("mi_toolkit", list(stops))


def _as_written(labels: bool) -> dict[str, bool]:
    """A token such as `$x$` is no formula; without labels there is nothing to say it of."""
    return {"parse_math": False} if labels else {}
