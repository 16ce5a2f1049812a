"""Colours that mean something, and the small parts that pages are made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mi_toolkit.core.provenance import Provenance

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

# Heads that carry no label: behind the others, and still to be seen.
UNLABELLED = "#999999"

VERDICTS = {"survives": "#0072b2", "fails": "#d55e00", "undecided": "#707070"}
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
    """Black or white, whichever has the higher contrast on a colour: 4.5 to 1 at least (WCAG 2).

    >>> ink_on("#ffffff"), ink_on("#08306b")
    ('black', 'white')
    """
    linear = (
        channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4
        for channel in (each / 255 for each in _channels(colour))
    )
    luminance = sum(
        weight * each for weight, each in zip((0.2126, 0.7152, 0.0722), linear, strict=True)
    )
    return "black" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "white"


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


def in_words(name: str) -> str:
    """A behaviour or a label as people say it; in code it has its identifier.

    >>> in_words("previous_token")
    'previous token'
    """
    return name.replace("_", " ")


def signed(figure: float) -> str:
    """Two decimals, with a true minus sign, and no minus before a zero.

    >>> signed(-0.5), signed(-0.001)
    ('−0.50', '0.00')
    """
    return f"{round(figure, 2) + 0.0:.2f}".replace("-", "\N{MINUS SIGN}")


def made_text(made: Provenance, run: str = "", *, further: str = "", says_bos: bool = True) -> str:
    """What a figure was made with: the model, in which run of it, on what texts, the versions."""
    versions = ", ".join(f"{name} {version}" for name, version in made.versions.items())
    said = f"{made.model} in {made.dtype} as {made.backend}{run}. {further}".rstrip()
    if says_bos and made.bos_text:
        said = f"{said} {made.bos_text[0].upper()}{made.bos_text[1:]}."
    return f"{said} {versions}."


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
    """What is shown where the mouse rests on it, as plain text."""

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


@dataclass(frozen=True, kw_only=True)
class ColouredToken:
    """One token of a row of text, and the colour that it has."""

    text: str
    """In a form in which nothing is invisible."""

    colour: str

    tip: str
    """What is shown where the mouse rests on it, as plain text."""


@dataclass(frozen=True, kw_only=True)
class DotStrip:
    """One value on a line, among others of its kind."""

    value: float

    others: Sequence[float]
    """Each a dot."""

    said: str
    """The strip in words."""

    tips: Sequence[str] = ()
    """What is shown where the mouse rests on each of the others."""

    low: float = math.nan
    """Where the value's interval begins; NaN: it has none."""

    high: float = math.nan

    colour: str = FRAME
    """Of the value."""

    is_tick: bool = False
    """Whether the value is a tick, as a median is; else a diamond."""

    radius: float = 3
    """Of a dot, in pixels."""

    @property
    def values(self) -> list[float]:
        """All that must fit on a scale."""
        every = [*self.others, self.value, self.low, self.high]
        return [value for value in every if value == value]

    @property
    def span(self) -> tuple[float, float]:
        """The scale on which all of it fits, and zero."""
        return span_of([self])


def span_of(strips: Iterable[DotStrip]) -> tuple[float, float]:
    """The scale on which several strips fit, and zero."""
    every = [0.0, *(value for strip in strips for value in strip.values)]
    return min(every), max(every)
