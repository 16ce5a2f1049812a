"""Attention patterns side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from mi_toolkit.views.colours import SEQUENTIAL, UNMEASURED
from mi_toolkit.views.figures.sheet import axes_at, colour_map, new_axes
from mi_toolkit.views.figures.style import in_house_style

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
    figure = Figure(figsize=(margin + n_columns * cell + 0.7, n_rows * cell + foot))
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
    return ax.imshow(shown, cmap=shades, vmin=0, vmax=1, aspect="auto")


def _bar(figure: Figure, picture: Any, y: float, height: float) -> None:
    at = axes_at(figure, figure.get_figwidth() - 0.65, y, 0.12, height)
    figure.colorbar(picture, cax=at)
    at.tick_params(labelsize=7, length=2)


def _as_written(labels: bool) -> dict[str, bool]:
    """A token such as `$x$` is no formula; without labels there is nothing to say it of."""
    return {"parse_math": False} if labels else {}
