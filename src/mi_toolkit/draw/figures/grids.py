"""Maps of signed figures: a row to a layer, a column to a head or a token, white where nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from mi_toolkit.draw.figures.style import (
    Sheet,
    axes_at,
    background,
    colour_map,
    heading,
    in_house_style,
    line,
    muted_text,
    title,
)
from mi_toolkit.draw.head_maps import ALL_WRITTEN_UP_TO, STRONGEST_WRITTEN
from mi_toolkit.draw.primitives import (
    DIVERGING,
    FRAME,
    SEQUENTIAL,
    UNMEASURED,
    TokenGrid,
    ink_on,
    percent,
    shade,
    signed,
)
from mi_toolkit.draw.weights import share_maps

CELL_WIDTH, CELL_HEIGHT = 0.36, 0.24
LEFT, TOP, RIGHT, BOTTOM = 0.55, 0.35, 0.75, 0.45


def panel_size(n_rows: int, n_columns: int, *, foot: float = BOTTOM) -> tuple[float, float]:
    """What a map takes, in inches."""
    width = max(LEFT + n_columns * CELL_WIDTH + RIGHT, 2.4)
    return width, TOP + n_rows * CELL_HEIGHT + foot


def value_map(
    figure: Figure,
    corner: tuple[float, float],
    values: Float[Tensor, "row column"],
    *,
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    across: str,
    down: str = "layer",
    bound: float | None = None,
) -> Axes:
    """One map with its scale next to it, its upper left corner at `corner`, in inches."""
    n_rows, n_columns = values.shape
    x, y = corner
    ax = axes_at(figure, x + LEFT, y + TOP, n_columns * CELL_WIDTH, n_rows * CELL_HEIGHT)
    draw_values(
        ax, values, title=title, rows=rows, columns=columns, across=across, down=down, bound=bound
    )
    return ax


def draw_values(
    ax: Axes,
    values: Float[Tensor, "row column"],
    *,
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    across: str,
    down: str = "layer",
    bound: float | None = None,
) -> None:
    """A map into axes: orange below 0, purple above; blues where nothing is below.

    Args:
        ax: what to draw in.
        values: what to show; NaN is grey.
        title: above it.
        rows: names of the rows.
        columns: names of the columns.
        across: what the columns are.
        down: what the rows are.
        bound: what the strongest colour stands for; None for the greatest value, up or down.
    """
    n_rows, n_columns = values.shape
    known = values[~values.isnan()]
    most = bound or (float(known.abs().max()) if len(known) else 0.0) or 1.0
    low = -most if len(known) and float(known.min()) < 0 else 0.0
    stops = DIVERGING if low else SEQUENTIAL
    ax.set_facecolor(UNMEASURED)
    mesh = ax.pcolormesh(
        values.numpy(),
        cmap=colour_map(stops),
        norm=Normalize(low, most),
        edgecolors=background(),
        linewidth=0.5,
    )
    ax.set(xlim=(0, n_columns), ylim=(n_rows, 0))
    ax.set_title(title, parse_math=False)
    ax.set_xlabel(across, fontsize=8)
    ax.set_ylabel(down, fontsize=8)
    long = max(map(len, columns), default=0) > 2
    ax.set_xticks(
        [column + 0.5 for column in range(n_columns)],
        columns,
        rotation=60 if long else 0,
        ha="right" if long else "center",
        rotation_mode="anchor" if long else "default",
        parse_math=False,
    )
    ax.set_yticks([row + 0.5 for row in range(n_rows)], rows)
    ax.tick_params(length=0, labelsize=7)
    ax.spines[:].set_visible(False)
    beside = 1.0 + 0.3 / n_columns
    if known.any():
        bar = ax.figure.colorbar(mesh, cax=ax.inset_axes((beside, 0, 0.3 / n_columns, 1)))
        bar.ax.tick_params(labelsize=7, length=2)
        bar.outline.set_visible(False)
    else:  # a scale from 0 to 1 would say that something could have been seen
        said = "0 everywhere" if len(known) else "nothing measured"
        where: dict[str, Any] = {"transform": ax.transAxes, "rotation": 270, "va": "center"}
        ax.text(beside, 0.5, said, fontsize=7, color=muted_text(), **where)
    is_whole = bool((known == known.round()).all())
    for row, column in _written(values):
        value = float(values[row, column])
        ink = ink_on(shade((value - low) / (most - low), stops))
        text = _short(value, is_whole)
        middle = (column + 0.5, row + 0.5)
        ax.text(*middle, text, ha="center", va="center", fontsize=6, color=ink)


def _written(values: Tensor) -> list[tuple[int, int]]:
    """The cells whose figure is written out: all of few, else the strongest."""
    known = [(int(row), int(column)) for row, column in (~values.isnan()).nonzero()]
    if values.numel() <= ALL_WRITTEN_UP_TO:
        return known
    return sorted(known, key=lambda cell: -abs(float(values[cell])))[:STRONGEST_WRITTEN]


def _short(value: float, is_whole: bool) -> str:
    if abs(value) < 10 and not is_whole:
        return signed(value)
    return f"{value:.0f}".replace("-", "\N{MINUS SIGN}") if math.isfinite(value) else ""


TOKEN_WIDTH, TOKEN_HEIGHT = 0.86, 0.34
NAMES, OVER, HEADING, BETWEEN = 0.75, 0.36, 0.3, 0.15
MOST_COLUMNS = 16
"""Columns of a band at most; several bands are about as wide as each other."""


def _columns_of_a_band(grid: TokenGrid) -> int:
    n_bands = -(-len(grid.columns) // MOST_COLUMNS)
    return -(-len(grid.columns) // n_bands)


def grid_size(grid: TokenGrid) -> tuple[float, float]:
    """Width and height of the drawn grid, in inches."""
    across = _columns_of_a_band(grid)
    n_bands = -(-len(grid.columns) // across)
    band = OVER + len(grid.rows) * TOKEN_HEIGHT + BETWEEN
    width = NAMES + across * TOKEN_WIDTH
    return max(width, 0.085 * len(grid.title)), HEADING + n_bands * band


def draw_grid(figure: Figure, grid: TokenGrid, x: float, y: float) -> None:
    """Draw a grid into a figure, its upper left corner at `x`, `y`, in inches."""
    heading(figure, x, y, grid.title)
    top = y + HEADING
    across = _columns_of_a_band(grid)
    for start in range(0, len(grid.columns), across):
        _band(figure, grid, range(start, min(start + across, len(grid.columns))), x, top)
        top += OVER + len(grid.rows) * TOKEN_HEIGHT + BETWEEN


def _band(figure: Figure, grid: TokenGrid, columns: range, x: float, y: float) -> None:
    size = (NAMES + len(columns) * TOKEN_WIDTH, OVER + len(grid.rows) * TOKEN_HEIGHT)
    ax = axes_at(figure, x, y, *size)
    ax.set(xlim=(0, size[0]), ylim=(size[1], 0))
    ax.axis("off")
    small: dict[str, Any] = {"va": "center", "parse_math": False}
    ax.text(
        NAMES - 0.08, OVER / 2, grid.corner, fontsize=7, ha="right", color=muted_text(), **small
    )
    for place, column in enumerate(columns):
        centre = NAMES + (place + 0.5) * TOKEN_WIDTH
        token, below = grid.columns[column]
        ax.text(centre, OVER * 0.3, token, fontsize=7.5, ha="center", weight="bold", **small)
        ax.text(centre, OVER * 0.72, below, fontsize=6.5, ha="center", color=muted_text(), **small)
    for row, name in enumerate(grid.rows):
        top = OVER + row * TOKEN_HEIGHT
        ax.text(NAMES - 0.08, top + TOKEN_HEIGHT / 2, name, fontsize=7, ha="right", **small)
        for place, column in enumerate(columns):
            cell = grid.cells[row][column]
            left = NAMES + place * TOKEN_WIDTH
            colour = shade(cell.probability, SEQUENTIAL)
            ink = ink_on(colour)
            ax.add_patch(
                Rectangle(
                    (left + 0.02, top + 0.02),
                    TOKEN_WIDTH - 0.04,
                    TOKEN_HEIGHT - 0.04,
                    facecolor=colour,
                    edgecolor=FRAME if cell.is_framed else line(),
                    linewidth=1.6 if cell.is_framed else 0.5,
                )
            )
            centre = left + TOKEN_WIDTH / 2
            ax.text(centre, top + 0.13, cell.text, fontsize=7, ha="center", color=ink, **small)
            figure_text = percent(cell.probability)
            ax.text(centre, top + 0.25, figure_text, fontsize=5.5, ha="center", color=ink, **small)


HEAD, FOOT = 0.5, 0.7

Row = Mapping[Any, Any]


@in_house_style
def weight_maps(name: str, heads: Sequence[Row], layers: Sequence[Row]) -> Figure:
    """Shares of all scores in percent, layers downwards: heads across, and matrices across.

    Args:
        name: the picture's title.
        heads: rows of `WeightScores.by_head`, or none.
        layers: rows of `WeightScores.by_layer`.
    """
    drawn = [
        (each, panel_size(len(each.rows), len(each.columns), foot=FOOT))
        for each in share_maps(heads, layers)
    ]
    width = sum(size[0] for *_, size in drawn)
    height = HEAD + max(size[1] for *_, size in drawn)
    figure = Sheet(figsize=(max(width, 0.4 + 0.105 * len(name)), height))
    title(figure, name)
    x = 0.0
    for shares, size in drawn:
        value_map(
            figure,
            (x, HEAD),
            torch.tensor(shares.values) * 100,
            title="share of all scores (%)",
            rows=shares.rows,
            columns=shares.columns,
            across=shares.across,
        )
        x += size[0]
    return figure
