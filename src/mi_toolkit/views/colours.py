"""Colours that mean something: the same on pages and in figures, for colour-blind readers too."""

from __future__ import annotations

from collections.abc import Sequence

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
