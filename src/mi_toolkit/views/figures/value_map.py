"""Maps of signed figures: a row to a layer, a column to a head or a token, white where nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

from mi_toolkit.views.colours import DIVERGING, SEQUENTIAL, UNMEASURED, ink_on, shade
from mi_toolkit.views.figures.sheet import axes_at, colour_map
from mi_toolkit.views.figures.style import paper_colour
from mi_toolkit.views.head_maps import ALL_WRITTEN_UP_TO, STRONGEST_WRITTEN, signed

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
    """One map with its scale beside it, its upper left corner at `corner`, in inches."""
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
        edgecolors=paper_colour(),
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
    bar = ax.figure.colorbar(
        mesh, cax=ax.inset_axes((1.0 + 0.3 / n_columns, 0, 0.3 / n_columns, 1))
    )
    bar.ax.tick_params(labelsize=7, length=2)
    bar.outline.set_visible(False)
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
