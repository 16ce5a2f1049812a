"""Generations as pictures: the tree of beams, and the alternatives of the best sequence."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path

from mi_toolkit.draw.figures.grids import draw_grid, grid_size
from mi_toolkit.draw.figures.style import (
    axes_at,
    background,
    in_house_style,
    ink,
    line,
    muted_text,
    title,
)
from mi_toolkit.draw.generation import (
    PlacedNode,
    alternatives_grid,
    lefts_and_widths,
    placed_nodes,
    prompt_end,
)
from mi_toolkit.draw.primitives import FRAME, SEQUENTIAL, ink_on, shade
from mi_toolkit.text.generation import Generation

TOP, BETWEEN, MARGIN = 0.55, 0.45, 0.15
SIGN, PADDING, GAP = 0.078, 0.14, 0.28
BOX, LANE, OUTCOME = 0.22, 0.3, 0.85
NARROWEST = 5.0


@in_house_style
def generation_figure(generation: Generation) -> Figure:
    """The tree of beams, where there are several, over the best sequence's alternatives."""
    grid = alternatives_grid(generation, 0)
    width, height = grid_size(grid)
    placed = placed_nodes(generation) if generation.num_beams > 1 else []
    down = 0.0
    if placed:
        first = prompt_end(generation)
        lefts, widths = lefts_and_widths(placed, first, sign=SIGN, padding=PADDING, gap=GAP)
        across = lefts[-1] + widths[-1] + OUTCOME
        down = (1 + max(node.lane for node in placed)) * LANE
        width = max(width, across)
    figure = Figure(
        figsize=(
            max(width, NARROWEST) + 2 * MARGIN,
            TOP + down + (BETWEEN if placed else 0.0) + height + MARGIN,
        )
    )
    title(figure, generation.title())
    if placed:
        ax = axes_at(figure, MARGIN, TOP, across, down)
        ax.set(xlim=(0, across), ylim=(down, 0))
        ax.axis("off")
        _draw_tree(ax, placed, first, lefts, widths)
    draw_grid(figure, grid, MARGIN, TOP + down + (BETWEEN if placed else 0.0))
    return figure


def _draw_tree(
    ax: Axes, placed: list[PlacedNode], first: str, lefts: list[float], widths: list[float]
) -> None:
    for node in reversed(placed):
        column, lane = node.parent or (-1, 0)
        x, y = lefts[column + 1] + widths[column + 1], lane * LANE + LANE / 2
        end, down = lefts[node.column + 1], node.lane * LANE + LANE / 2
        middle = (x + end) / 2
        curve = Path(
            [(x, y), (middle, y), (middle, down), (end, down)],
            [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4],
        )
        colour, width = _stroke(node)
        ax.add_patch(PathPatch(curve, facecolor="none", edgecolor=colour, linewidth=width))
    _box(ax, 0.0, widths[0], 0, first, background(), muted_text(), 0.8)
    for node in placed:
        left, width = lefts[node.column + 1], widths[node.column + 1]
        edge, stroke = _stroke(node)
        colour = shade(node.probability, SEQUENTIAL)
        _box(ax, left, width, node.lane, node.text, colour, edge, 2.0 if node.ended else stroke)
        if node.outcome:
            middle = node.lane * LANE + LANE / 2
            ax.text(left + width + 0.06, middle, node.outcome, fontsize=7.5, va="center")


def _box(
    ax: Axes, left: float, width: float, lane: int, text: str, colour: str, edge: str, stroke: float
) -> None:
    y = lane * LANE + (LANE - BOX) / 2
    style = "round,pad=0,rounding_size=0.03"
    ax.add_patch(
        FancyBboxPatch(
            (left, y),
            width,
            BOX,
            boxstyle=style,
            facecolor=colour,
            edgecolor=edge,
            linewidth=stroke,
        )
    )
    ax.text(
        left + width / 2,
        y + BOX / 2,
        text,
        fontsize=7.5,
        ha="center",
        va="center",
        color=ink() if colour == background() else ink_on(colour),
        parse_math=False,
    )


def _stroke(node: PlacedNode) -> tuple[str, float]:
    strokes = {"dropped": (line(), 0.7), "best": (FRAME, 1.6), "kept": (muted_text(), 1.0)}
    return strokes[node.kind]
