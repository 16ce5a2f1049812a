"""Maps of heads: layers downwards, heads across, one thing about every head in colour."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from mi_toolkit.draw import head_maps
from mi_toolkit.draw.figures.style import (
    Sheet,
    axes_at,
    background,
    colour_map,
    in_house_style,
    title,
)
from mi_toolkit.draw.head_maps import Cell, HeadMap, Scale
from mi_toolkit.draw.primitives import FRAME, ink_on
from mi_toolkit.heads.report import HeadReport

CELL_WIDTH, CELL_HEIGHT = 0.34, 0.24
TOP, BOTTOM, RIGHT = 0.45, 0.5, 1.25
MAP_COLUMNS = 3


@in_house_style
def head_map(report: HeadReport, behaviour: str, ax: Axes | None = None) -> Axes:
    """One behaviour, head by head: layers downwards, heads across, labelled heads framed.

    Colour is lift (0 chance, 1 perfect; below chance is white) or the value of a distribution
    behaviour; locality, which goes below 0, has a colour for each side. In small models every
    figure is written in its cell, in others those of the labelled and the strongest heads. A
    head without a figure is hatched; one that the texts cannot tell from the label's bar has a
    dashed frame.

    Args:
        report: whose figures to show.
        behaviour: one of the report's.
        ax: axes to draw in; None for a figure of its own, which is `ax.figure`.

    Raises:
        UnknownNameError: the report does not have the behaviour.
    """
    return _drawn(head_maps.behaviour_map(report, behaviour), ax)


@in_house_style
def scope_map(report: HeadReport, ax: Axes | None = None) -> Axes:
    """Which heads look near and which far, with each layer's declared window at its number."""
    return _drawn(head_maps.scope_map(report), ax)


@in_house_style
def label_map(report: HeadReport, ax: Axes | None = None) -> Axes:
    """Every head's labels at once, a strip of colour for each; unclassified heads stay grey."""
    return _drawn(head_maps.label_map(report), ax)


@in_house_style
def label_picture(report: HeadReport) -> Figure:
    """The map of labels as a picture of its own."""
    shown = head_maps.label_map(report)
    figure = Sheet(figsize=_panel_size(shown))
    _drawn(shown, _panel(figure, shown, 0.0, 0.0))
    return figure


@in_house_style
def report_grid(report: HeadReport) -> Figure:
    """All maps of a report as one picture."""
    return map_grid(head_maps.maps_of(report), f"Heads of {report.provenance.model}")


@in_house_style
def map_grid(maps: Sequence[HeadMap], heading: str) -> Figure:
    """Several maps as one picture, row by row; a row is as high as its highest map."""
    n_columns = min(MAP_COLUMNS, len(maps))
    sizes = [_panel_size(shown) for shown in maps]
    width = max(width for width, _ in sizes)
    heights = [
        max(height for _, height in sizes[start : start + n_columns])
        for start in range(0, len(maps), n_columns)
    ]
    figure = Sheet(figsize=(n_columns * width, sum(heights) + 0.5))
    for index, shown in enumerate(maps):
        row, column = divmod(index, n_columns)
        _drawn(shown, _panel(figure, shown, column * width, 0.5 + sum(heights[:row])))
    title(figure, heading)
    return figure


def _drawn(shown: HeadMap, ax: Axes | None) -> Axes:
    if ax is None:
        ax = _panel(Sheet(figsize=_panel_size(shown)), shown, 0.0, 0.0)
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
            backgroundcolor=background(),
        )
    return ax


def _draw_figures(ax: Axes, values: Float[Tensor, "layer head"], scale: Scale) -> None:
    mesh = ax.pcolormesh(
        values.numpy(),
        cmap=colour_map(scale.stops),
        norm=Normalize(scale.low, 1),
        edgecolors=background(),
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
    between = PatchCollection(grid, facecolor="none", edgecolor=background(), linewidth=0.5)
    ax.add_collection(between)
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
                edgecolor=background(),
                hatch="///",
                linewidth=0.5,
            )
        )
    if cell.is_framed:
        ax.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=FRAME, linewidth=1.4))
    if cell.is_borderline:
        dashed = Rectangle(corner, 1, 1, fill=False, edgecolor=FRAME, linewidth=0.8)
        dashed.set_linestyle((0, (2, 2)))
        ax.add_patch(dashed)
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
    return axes_at(figure, x + _left(shown), y + TOP, width, height)


def _left(shown: HeadMap) -> float:
    return 0.4 + 0.065 * max(len(name) for name in shown.layers)
