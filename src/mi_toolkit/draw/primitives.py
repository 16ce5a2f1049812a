"""Colours that mean something, and the small parts that pages are made of."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from mi_toolkit.core.predictions import Prediction
from mi_toolkit.core.tokenizer import token_texts as token_texts

Stops = tuple[str, ...]
"""Colours at even distances, from the lowest value to the highest."""

# ColorBrewer's Blues and PuOr (Cynthia Brewer, Apache 2.0), from white.
SEQUENTIAL: Stops = tuple(
    "#ffffff #deebf7 #c6dbef #9ecae1 #6baed6 #4292c6 #2171b5 #08519c #08306b".split()
)
DIVERGING: Stops = tuple(
    "#7f3b08 #b35806 #e08214 #fdb863 #fee0b6 #ffffff "
    "#d8daeb #b2abd2 #8073ac #542788 #2d004b".split()
)

FRAME = "#d55e00"
UNMEASURED = "#dcdcdc"
NOTHING = "#f0f0f0"

# Okabe and Ito's palette. Grey for the resting state that most heads share.
LABELS = {
    "previous_token": "#0072b2",
    "current_token": "#56b4e9",
    "first_token": "#999999",
    "duplicate_token": "#cc79a7",
    "induction": "#d55e00",
    "prefix_suppression": "#e69f00",
    "positional": "#009e73",
    "diffuse": "#f0e442",
}
# Paul Tol's muted palette, for those that are measured when they are named.
LABELS |= {
    "name_mover": "#117733",
    "negative_name_mover": "#882255",
    "s_inhibition": "#332288",
    "retrieval": "#44aa99",
    "successor": "#aa4499",
}
OTHER_LABEL = "#000000"

# The same palette, for heads or models told apart in one panel; without the yellow, too faint for
# a line.
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")

VERDICTS = {"survives": "#0072b2", "fails": "#d55e00", "undecided": "#777777"}
SCOPES = {"local": "#0072b2", "global": "#e69f00", "undetermined": NOTHING}


def shade(share: float, stops: Sequence[str]) -> str:
    """The colour at `share` of the way along the stops; the ends are kept beyond them.

    >>> shade(0.5, ["#000000", "#ffffff"]), shade(-3.0, ["#000000", "#ffffff"])
    ('#808080', '#000000')
    """
    place = min(max(share, 0.0), 1.0) * (len(stops) - 1)
    left = min(int(place), len(stops) - 2)
    mixed = (
        round(low + (high - low) * (place - left))
        for low, high in zip(_channels(stops[left]), _channels(stops[left + 1]), strict=True)
    )
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def ink_on(colour: str) -> str:
    """Black or white, whichever is read more easily on a colour.

    >>> ink_on("#ffffff"), ink_on("#08306b")
    ('black', 'white')
    """
    red, green, blue = _channels(colour)
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


SPACE_SIGN = "\N{MIDDLE DOT}"


def visible(text: str, *, longest: int = 18) -> str:
    r"""The text as a label: spaces as `·`, what does not print as its escape, the rest cut off.

    >>> visible(" Mary"), visible("\n"), visible("internationalisation")
    ('·Mary', '\\n', 'internationalisat…')
    """
    signs = [
        SPACE_SIGN if sign == " " else sign if sign.isprintable() else _escaped(sign)
        for sign in text
    ]
    shown = "".join(signs)
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def _escaped(sign: str) -> str:
    return sign.encode("unicode_escape").decode("ascii")


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


def bars_html(
    title: str,
    predictions: Sequence[Prediction],
    *,
    target: Prediction | None = None,
    colour: str = LINES[0],
) -> str:
    """Rank, token and probability, a bar after each; the target's row is marked.

    A target that is not among them comes last, with its own rank.
    """
    ranked = list(enumerate(predictions, start=1))
    if target is not None and all(each.token != target.token for each in predictions):
        ranked.append((target.rank, target))
    rows = "".join(_row(rank, each, target, colour) for rank, each in ranked)
    head = "<tr><th>rank</th><th>token</th><th>probability</th></tr>"
    return (
        f'<figure class="bars"><figcaption>{html.escape(title)}</figcaption>'
        f"<table>{head}{rows}</table></figure>"
    )


def _row(rank: int, shown: Prediction, target: Prediction | None, colour: str) -> str:
    marked = ' class="target"' if target is not None and shown.token == target.token else ""
    share = shown.probability
    return (
        f"<tr{marked}><td>{rank:,}</td>"
        f'<td title="id {shown.token}">{html.escape(visible(shown.text))}</td>'
        f'<td><i style="width:{share * 100:.1f}%;background:{colour}"></i>'
        f"<span>{share:.1%}</span></td></tr>"
    )
