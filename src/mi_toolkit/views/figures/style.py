"""The house style, on light and on dark paper: two matplotlib style files and what reads them.

Figures take paper, ink and lines from the style; the colours that mean something (`colours`) are
the same in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, wraps
from importlib import resources
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl

from mi_toolkit.errors import unknown_name
from mi_toolkit.views.colours import LINES

P = ParamSpec("P")
Drawn = TypeVar("Drawn")

PAPERS = ("light", "dark")
_PAPER: ContextVar[str] = ContextVar("paper", default="light")


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
        with mpl.rc_context(style):
            yield
    finally:
        _PAPER.reset(token)


def in_house_style(draw: Callable[P, Drawn]) -> Callable[P, Drawn]:
    """Have a figure function draw in the house style, on the paper that is asked for around it."""

    @wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Drawn:
        with mpl.rc_context(_style(_PAPER.get())):
            return draw(*args, **kwargs)

    return styled


def ink() -> str:
    """The colour of text."""
    return str(mpl.rcParams["text.color"])


def soft_ink() -> str:
    """The colour of what explains a figure, and of its axes."""
    return str(mpl.rcParams["axes.edgecolor"])


def line() -> str:
    """The colour of what only guides the eye."""
    return str(mpl.rcParams["grid.color"])


def line_colours() -> tuple[str, ...]:
    """`colours.LINES`, the last of them, black, in the colour of text."""
    return (*LINES[:-1], ink())


def paper_colour() -> str:
    """The colour of the paper, which also parts one cell from the next."""
    return str(mpl.rcParams["axes.facecolor"])


@cache
def _style(paper: str) -> Any:  # matplotlib spells out every key, release by release
    if paper not in PAPERS:
        raise unknown_name("paper", paper, PAPERS)
    with resources.as_file(resources.files(__package__) / f"{paper}.mplstyle") as path:
        style: Any = mpl.rc_params_from_file(str(path), use_default_template=False)
    return dict(style)
