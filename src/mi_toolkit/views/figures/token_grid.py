"""Grids of tokens as pictures: a long one in several bands, one under the other."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mi_toolkit.views.colours import FRAME, SEQUENTIAL, ink_on, shade
from mi_toolkit.views.figures.sheet import axes_at
from mi_toolkit.views.figures.style import line, soft_ink
from mi_toolkit.views.token_grid import TokenGrid, percent

CELL_WIDTH, CELL_HEIGHT = 0.86, 0.34
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
    band = OVER + len(grid.rows) * CELL_HEIGHT + BETWEEN
    width = NAMES + across * CELL_WIDTH
    return max(width, 0.085 * len(grid.title)), HEADING + n_bands * band


def draw_grid(figure: Figure, grid: TokenGrid, x: float, y: float) -> None:
    """Draw a grid into a figure, its upper left corner at `x`, `y`, in inches."""
    figure.text(
        x / figure.get_figwidth(),
        1 - (y + 0.15) / figure.get_figheight(),
        grid.title,
        fontsize=9.5,
        weight="bold",
        parse_math=False,
    )
    top = y + HEADING
    across = _columns_of_a_band(grid)
    for start in range(0, len(grid.columns), across):
        _band(figure, grid, range(start, min(start + across, len(grid.columns))), x, top)
        top += OVER + len(grid.rows) * CELL_HEIGHT + BETWEEN


def _band(figure: Figure, grid: TokenGrid, columns: range, x: float, y: float) -> None:
    size = (NAMES + len(columns) * CELL_WIDTH, OVER + len(grid.rows) * CELL_HEIGHT)
    ax = axes_at(figure, x, y, *size)
    ax.set(xlim=(0, size[0]), ylim=(size[1], 0))
    ax.axis("off")
    small: dict[str, Any] = {"va": "center", "parse_math": False}
    ax.text(NAMES - 0.08, OVER / 2, grid.corner, fontsize=7, ha="right", color=soft_ink(), **small)
    for place, column in enumerate(columns):
        centre = NAMES + (place + 0.5) * CELL_WIDTH
        token, below = grid.columns[column]
        ax.text(centre, OVER * 0.3, token, fontsize=7.5, ha="center", weight="bold", **small)
        ax.text(centre, OVER * 0.72, below, fontsize=6.5, ha="center", color=soft_ink(), **small)
    for row, name in enumerate(grid.rows):
        top = OVER + row * CELL_HEIGHT
        ax.text(NAMES - 0.08, top + CELL_HEIGHT / 2, name, fontsize=7, ha="right", **small)
        for place, column in enumerate(columns):
            cell = grid.cells[row][column]
            left = NAMES + place * CELL_WIDTH
            colour = shade(cell.probability, SEQUENTIAL)
            ink = ink_on(colour)
            ax.add_patch(
                Rectangle(
                    (left + 0.02, top + 0.02),
                    CELL_WIDTH - 0.04,
                    CELL_HEIGHT - 0.04,
                    facecolor=colour,
                    edgecolor=FRAME if cell.is_framed else line(),
                    linewidth=1.6 if cell.is_framed else 0.5,
                )
            )
            centre = left + CELL_WIDTH / 2
            ax.text(centre, top + 0.13, cell.text, fontsize=7, ha="center", color=ink, **small)
            figure_text = percent(cell.probability)
            ax.text(centre, top + 0.25, figure_text, fontsize=5.5, ha="center", color=ink, **small)
