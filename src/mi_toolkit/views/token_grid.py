"""Grids of tokens, each on the colour of its probability: alternatives, lenses. As HTML."""

from __future__ import annotations

import html
from dataclasses import dataclass

from mi_toolkit.views.colours import SEQUENTIAL, ink_on, shade


@dataclass(frozen=True, kw_only=True)
class GridCell:
    """One token of a grid."""

    text: str
    """The token, in a form in which nothing is invisible."""

    probability: float
    """What it is coloured by, in [0, 1]."""

    tip: str
    """What is told where the mouse rests on it, as plain text."""

    is_framed: bool = False
    """Whether it stands out: the token that was chosen, the one that comes next."""


@dataclass(frozen=True, kw_only=True)
class TokenGrid:
    """Rows and columns of tokens."""

    title: str
    """Plain text."""

    corner: str
    """What the rows are."""

    columns: tuple[tuple[str, str], ...]
    """Over each column a token and what is said beneath it."""

    rows: tuple[str, ...]
    """A name for each row."""

    cells: tuple[tuple[GridCell, ...], ...]
    """Row by row."""

    framed: str
    """What a frame means; empty where nothing is framed."""


def percent(probability: float) -> str:
    """A probability in a few signs.

    >>> percent(0.4312), percent(0.031), percent(0.0004)
    ('43%', '3.1%', '<0.1%')
    """
    if probability < 0.001:
        return "<0.1%"
    return f"{probability:.1%}" if probability < 0.0995 else f"{probability:.0%}"


def grid_html(grid: TokenGrid) -> str:
    """The grid as an HTML table that scrolls sideways."""
    over = "".join(
        f"<th>{html.escape(token)}<small>{html.escape(below)}</small></th>"
        for token, below in grid.columns
    )
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th>{''.join(map(_cell_html, cells))}</tr>"
        for name, cells in zip(grid.rows, grid.cells, strict=True)
    )
    stops = ",".join(SEQUENTIAL)
    framed = f'<span><i class="framed"></i>{html.escape(grid.framed)}</span>' if grid.framed else ""
    return (
        f"<h3>{html.escape(grid.title)}</h3>"
        f'<div class="wide"><table class="grid"><tr><th>{html.escape(grid.corner)}</th>{over}</tr>'
        f'{rows}</table></div><div class="legend"><span>probability 0<i class="ramp" '
        f'style="background:linear-gradient(90deg,{stops})"></i>1</span>{framed}</div>'
    )


def _cell_html(cell: GridCell) -> str:
    colour = shade(cell.probability, SEQUENTIAL)
    framed = ' class="framed"' if cell.is_framed else ""
    return (
        f'<td{framed} style="background:{colour};color:{ink_on(colour)}" '
        f'title="{html.escape(cell.tip)}">{html.escape(cell.text)}'
        f"<small>{percent(cell.probability)}</small></td>"
    )
