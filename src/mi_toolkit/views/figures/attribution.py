"""Attributions: a prompt in coloured boxes, a token to a box, its score below it."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mi_toolkit.attribution.attribution import Attribution
from mi_toolkit.views.colours import DIVERGING, SEQUENTIAL, ink_on, shade
from mi_toolkit.views.figures.sheet import axes_at, colour_map, sheet_of, title
from mi_toolkit.views.figures.style import in_house_style, line
from mi_toolkit.views.tokens import visible

WIDTH, SIDE, TOP, FOOT = 9.0, 0.15, 0.65, 0.75
BOX, ROW, GAP = 0.3, 0.58, 0.05
SIGN, PADDING = 0.092, 0.16
"""Width of a sign and of the space around a word, in inches."""

NARROWEST = 0.42


@in_house_style
def attribution_figure(found: Attribution, ax: Axes | None = None) -> Axes:
    """The prompt, wrapped into lines: colour and the figure below a token are its score.

    Args:
        found: of `attribute`.
        ax: axes to draw in, whose width is where lines are broken; None for a figure of its own,
            which is `ax.figure`, with a scale.
    """
    labels = [visible(text) for text in found.tokens]
    largest = float(found.scores.abs().max()) or 1.0
    if ax is not None:
        _draw(
            ax, found, labels, largest, width=ax.get_position().width * sheet_of(ax).get_figwidth()
        )
        ax.set_title(found.title(), parse_math=False)
        return ax
    n_rows = _places(labels, WIDTH)[1]
    height = TOP + n_rows * ROW + FOOT
    figure = Figure(figsize=(WIDTH, height))
    title(figure, f"{found.title()}, by {found.method}")
    ax = axes_at(figure, 0.0, TOP, WIDTH, n_rows * ROW)
    _draw(ax, found, labels, largest, width=WIDTH)
    _scale(figure, found, largest, height)
    return ax


def _draw(ax: Axes, found: Attribution, labels: list[str], largest: float, *, width: float) -> None:
    places, n_rows = _places(labels, width)
    ax.set(xlim=(0, width), ylim=(n_rows * ROW, 0))
    ax.axis("off")
    words: dict[str, Any] = {"ha": "center", "va": "center", "parse_math": False}
    for label, score, (x, row, across) in zip(labels, found.scores.tolist(), places, strict=True):
        share = score / largest
        colour = shade((share + 1) / 2, DIVERGING) if found.is_signed else shade(share, SEQUENTIAL)
        corner, middle = (x, row * ROW), x + across / 2
        ax.add_patch(
            Rectangle(corner, across, BOX, facecolor=colour, edgecolor=line(), linewidth=0.5)
        )
        ax.text(middle, row * ROW + BOX / 2, label, fontsize=9.5, color=ink_on(colour), **words)
        number = f"{score:+.2f}" if found.is_signed else f"{score:.2f}"
        ax.text(middle, row * ROW + BOX + 0.1, number, fontsize=6.5, **words)


def _places(labels: list[str], across: float) -> tuple[list[tuple[float, int, float]], int]:
    """Left side, row and width of each box."""
    places: list[tuple[float, int, float]] = []
    x, row = SIDE, 0
    for label in labels:
        width = max(SIGN * len(label) + PADDING, NARROWEST)
        if x + width > across - SIDE and x > SIDE:
            x, row = SIDE, row + 1
        places.append((x, row, width))
        x += width + GAP
    return places, row + 1


def _scale(figure: Figure, found: Attribution, largest: float, height: float) -> None:
    stops = DIVERGING if found.is_signed else SEQUENTIAL
    bar = axes_at(figure, SIDE + 0.15, height - 0.5, 1.6, 0.12)
    bar.imshow([[index / 99 for index in range(100)]], aspect="auto", cmap=colour_map(stops))
    low = f"{-largest:.2f}" if found.is_signed else "0"
    bar.set_xticks([0, 99], [low, f"{largest:.2f}"], fontsize=7)
    bar.set_yticks([])
    bar.tick_params(length=2)
    unit = "share of attention" if found.method == "attention_rollout" else found.objective
    words = [f"score, in units of the {unit}" if unit == found.objective else unit]
    if found.is_signed:
        words.append(found.sum_text())
    figure.text(
        2.15 / WIDTH,
        0.44 / height,
        "\n".join(words),
        fontsize=7.5,
        va="center",
        parse_math=False,
        wrap=True,
    )
