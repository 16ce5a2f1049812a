"""The house style, on light and on dark paper, and sheets laid out in inches.

Figures take paper, ink and lines from the style; the colours that mean something
(`draw.primitives`) are the same in both.

The sheet that every picture is drawn on: sizes in inches, fonts, colours, files.

Figures are made without pyplot, so that nobody's current figure, style or backend changes, and
laid out in inches: matplotlib's own layout engine takes seconds over a large model's ticks.
"""

from __future__ import annotations

import os
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, wraps
from importlib import resources
from io import BytesIO
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure, SubFigure
from matplotlib.font_manager import fontManager
from matplotlib.transforms import Bbox

from mi_toolkit.core.errors import unknown_name
from mi_toolkit.core.io import atomic_write, picture_kind
from mi_toolkit.draw.primitives import LINES, DotStrip

P = ParamSpec("P")
Drawn = TypeVar("Drawn")

PAPERS = ("light", "dark")
_PAPER: ContextVar[str] = ContextVar("paper", default="light")


_STYLED = threading.RLock()
"""The style is matplotlib's for the whole process while it lasts: two threads that put it back one
over the other would leave it there."""


@contextmanager
def house_style(paper: str = "light") -> Iterator[None]:
    """Figures drawn inside are in the house style; matplotlib is as it was afterwards.

    Figures of this package are on light paper anywhere else. Your own figures, made inside, take
    on fonts, lines and colours too.

    Args:
        paper: `light` or `dark`.

    Raises:
        UnknownNameError: any other paper.

    Example:
        >>> from matplotlib.figure import Figure
        >>> with house_style("dark"):
        ...     figure = Figure()
        >>> figure.get_facecolor() < (0.5, 0.5, 0.5)
        True
    """
    style = _style(paper)
    token = _PAPER.set(paper)
    try:
        with _STYLED, mpl.rc_context(style):
            yield
    finally:
        _PAPER.reset(token)


def in_house_style(draw: Callable[P, Drawn]) -> Callable[P, Drawn]:
    """Have a figure function draw in the house style, on the paper that is asked for around it."""

    @wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Drawn:
        with _STYLED, mpl.rc_context(_style(_PAPER.get())):
            return draw(*args, **kwargs)

    return styled


def ink() -> str:
    """The colour of text."""
    return str(mpl.rcParams["text.color"])


def muted_text() -> str:
    """The colour of what explains a figure, and of its axes."""
    return str(mpl.rcParams["axes.edgecolor"])


def line() -> str:
    """The colour of what only guides the eye."""
    return str(mpl.rcParams["grid.color"])


def line_colours() -> tuple[str, ...]:
    """`colours.LINES`, the last of them, black, in the colour of text."""
    return (*LINES[:-1], ink())


def background() -> str:
    """The colour of the paper, which also parts one cell from the next."""
    return str(mpl.rcParams["axes.facecolor"])


def _style(paper: str) -> Any:  # matplotlib spells out every key, release by release
    return {**_style_file(paper), "font.family": _fonts()}


@cache
def _style_file(paper: str) -> dict[str, Any]:
    if paper not in PAPERS:
        raise unknown_name("paper", paper, PAPERS)
    with resources.as_file(resources.files(__package__) / f"{paper}.mplstyle") as path:
        style: Any = mpl.rc_params_from_file(str(path), use_default_template=False)
    return dict(style)


def _fonts() -> list[str]:
    """Those of `FONTS` that are installed, and where a page is read that has none of them, any."""
    installed = {font.name for font in fontManager.ttflist}
    return [*(font for font in FONTS if font in installed), "sans-serif"]


DOTS_PER_INCH = 160

UNDATED: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}

LEFT, RIGHT, TOP, BOTTOM = 0.65, 0.25, 0.4, 0.55
"""Around the axes of a figure of one panel, in inches."""

FONTS = (
    "DejaVu Sans|Noto Sans CJK SC|Noto Sans CJK JP|Microsoft YaHei|PingFang SC|Hiragino Sans GB|"
    "Arial Unicode MS"
).split("|")


class Sheet(Figure):
    """A figure of this package: a notebook shows it, whether pyplot is in use there or not."""

    def _repr_png_(self) -> bytes:
        return _drawn(self, "png")


def axes_at(figure: Figure, x: float, y: float, width: float, height: float) -> Axes:
    """Axes with their upper left corner at `x`, `y`; all in inches from the figure's own."""
    across, down = figure.get_figwidth(), figure.get_figheight()
    return figure.add_axes((x / across, 1 - (y + height) / down, width / across, height / down))


def new_axes(
    width: float,
    height: float,
    *,
    left: float = LEFT,
    right: float = RIGHT,
    top: float = TOP,
    bottom: float = BOTTOM,
) -> Axes:
    """Axes of a size, in inches, on a figure of their own with room for their labels."""
    figure = Sheet(figsize=(left + width + right, top + height + bottom))
    return axes_at(figure, left, top, width, height)


def sheet_of(ax: Axes) -> Figure:
    """The whole figure that axes stand in."""
    # Not get_figure(root=True), which matplotlib has from 3.10 on.
    figure: Any = ax.figure
    while isinstance(figure, SubFigure):
        figure = figure.figure
    if not isinstance(figure, Figure):
        raise ValueError("These axes have been removed from their figure.")
    return figure


def colour_map(stops: Sequence[str]) -> LinearSegmentedColormap:
    """A continuous scale through the given colours."""
    return LinearSegmentedColormap.from_list("mi_toolkit", list(stops))


def write(figure: Figure, x: float, y: float, text: str, **look: Any) -> None:
    """Text that is no formula, at `x`, `y`, in inches from the figure's upper left corner."""
    across, down = figure.get_figwidth(), figure.get_figheight()
    figure.text(x / across, 1 - y / down, text, parse_math=False, **look)


def title(figure: Figure, text: str) -> None:
    """The picture's title, in its upper left corner, half an inch high: smaller where it is long.

    Where even small letters do not fit, it takes two lines, and leaves out what is beyond them.
    """
    room = figure.get_figwidth() - 2 * 0.12
    size = max(SMALLEST, min(13.0, room / (SIGN * max(len(text), 1))))
    lines = textwrap.wrap(
        text, int(room / (SIGN * size)), max_lines=2, placeholder=" \N{HORIZONTAL ELLIPSIS}"
    )
    write(figure, 0.12, 0.24, "\n".join(lines), fontsize=size, weight="bold", va="center")


SMALLEST = 8.0
"""Points, of a title that has to be small."""

SIGN = 0.0081
"""Inches that a sign of a title takes across, at one point."""


def heading(figure: Figure, x: float, y: float, text: str) -> None:
    """The title of a part of a picture."""
    write(figure, x, y + 0.15, text, fontsize=9.5, weight="bold")


def draw_strip(ax: Axes, y: float, strip: DotStrip, *, dots: str) -> None:
    """A dot strip into axes, at one height: dots, the value's interval, and a diamond for it."""
    others, size = list(strip.others), strip.radius
    ax.plot(others, [y] * len(others), "o", color=dots, markersize=size, alpha=0.5, mew=0)
    if strip.low == strip.low:
        ax.plot([strip.low, strip.high], [y, y], color=strip.colour, linewidth=1.6)
    ax.plot([strip.value], [y], "D", color=strip.colour, markersize=5.5, mew=0)


def as_svg(figure: Figure) -> str:
    """A figure as an SVG document."""
    return _drawn(figure, "svg").decode()


PAD = 0.05
"""Inches around what stands out of a figure."""


def _whole(figure: Figure) -> Bbox:
    """The figure in inches, and what stands out of it: a long title, names next to an axis."""
    before, figure.dpi = figure.dpi, DOTS_PER_INCH  # letters' widths are rounded to dots
    drawn = figure.get_tightbbox()
    figure.dpi = before
    page = Bbox.from_extents(0, 0, *figure.get_size_inches())
    return Bbox.union([page, drawn.padded(PAD)])


def save_figure(figure: Figure | Axes, path: str | os.PathLike[str]) -> None:
    """Write a figure, or the one that axes are in, whole or not at all: PNG, SVG or PDF.

    The name's ending says which.

    The paper is the figure's own: light, or dark where it was drawn in `house_style("dark")`.
    Equal figures give equal files: neither holds a date or a random id.

    Raises:
        UnknownNameError: another ending, or none.
        WriteError: it cannot be written: the disk is full, say.
    """
    # Drawn in memory: on a full disk matplotlib's PDF leaves its file open, and complains of zlib.
    whole = sheet_of(figure) if isinstance(figure, Axes) else figure
    picture = _drawn(whole, picture_kind(path))
    with atomic_write(path) as draft:
        draft.write_bytes(picture)


def _drawn(figure: Figure, kind: str) -> bytes:
    picture = BytesIO()
    own: Any = {"font.family": _fonts(), "svg.fonttype": "none", "svg.hashsalt": "mi_toolkit"}
    with (
        _STYLED,
        mpl.rc_context(own),
        warnings.catch_warnings(),
    ):
        # A script that no installed font has is shown as boxes, which says as much.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(
            picture,
            format=kind,
            dpi=DOTS_PER_INCH,
            bbox_inches=_whole(figure),
            facecolor=figure.get_facecolor(),
            metadata=UNDATED.get(kind),
        )
    return picture.getvalue()
