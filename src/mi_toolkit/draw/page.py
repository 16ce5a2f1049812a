"""A page of views: one HTML document that needs no network and no other file.

The only door to circuitsvis: its heatmaps, drawn from its local bundle, without a network.

circuitsvis' own `_repr_html_` asks google.com whether to load its script from a CDN, and its local
page repeats 1.3 MB of script in every view. Only the script is taken from it here: once per page,
compressed, and handed each view's properties as JSON. Of its components it is `AttentionPattern`
that draws the chosen head; `AttentionHeads` draws all heads as large charts before it shows one,
which takes minutes for twelve heads on a hundred tokens.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

import circuitsvis
from jaxtyping import Float
from markupsafe import Markup, escape
from torch import Tensor

from mi_toolkit.core.errors import MIToolkitError, UnknownNameError
from mi_toolkit.core.io import PICTURES, atomic_write, check_ending, picture_kind
from mi_toolkit.draw import figures
from mi_toolkit.draw.markup import asset, render

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Section:
    """A titled part of a page: HTML, or a drawing by the page's shared script, or both."""

    title: str
    """Plain text."""

    caption: str
    """What is shown and how to read it, as plain text."""

    body: str = ""
    """HTML as `Markup`, without scripts and ids: several may stand on one page. Else plain text."""

    properties: str = ""
    """What the shared script draws under the body, as JSON that is safe inside a `<script>`."""

    height: int = 600
    """Pixels that it takes in a notebook, where the host does not let the page say so itself."""


@runtime_checkable
class View(Protocol):
    """Anything that can stand on a page."""

    def section(self) -> Section:
        """The view's part of a page."""
        ...


CONTENT_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data:; font-src data:; base-uri 'none'; form-action 'none'"
)
"""What a browser lets the page do: run what it holds, and reach nothing."""


@dataclass(frozen=True, eq=False)
class Page:
    """Views one under the other, in one HTML document with one copy of the script.

    A notebook shows it in a frame; `save_html` writes it to a file that can be mailed around.
    """

    views: View | Sequence[View]
    """What the page shows, first to last; or one view."""

    title: str | None = None
    """The heading and the browser's title; None for the first view's."""

    def __post_init__(self) -> None:
        """Check that views are given, and not what they are of.

        Raises:
            UnknownNameError: something else, or none.
        """
        if not self._views():
            raise UnknownNameError("A page without a view is empty: mi.Page([mi.view(result), …]).")
        for view in self._views():
            if not isinstance(view, View):
                kind = type(view).__name__
                raise UnknownNameError(
                    f"A page holds views, and no {kind}: mi.Page([mi.view(result), …])."
                )

    def _views(self) -> Sequence[View]:
        is_several = isinstance(self.views, Sequence) and not isinstance(self.views, str)
        return cast("Sequence[View]", self.views if is_several else [self.views])

    def save_html(self, path: str | os.PathLike[str]) -> None:
        """Write the page to one file, whole or not at all.

        Raises:
            UnknownNameError: its name says that it holds something else.
        """
        check_ending(path, "a page", "html", "htm")
        with atomic_write(path) as draft:
            draft.write_text(self.document(), encoding="utf-8")

    def document(self) -> str:
        """The whole HTML document."""
        return _document(self._sections(), self.title)

    def _sections(self) -> list[Section]:
        return [view.section() for view in self._views()]

    def _repr_html_(self) -> str:
        sections = self._sections()
        height = 80 + sum(section.height for section in sections)
        return framed(_document(sections, self.title), height=height)


def framed(document: str, *, height: int) -> Markup:
    """A document in a frame of its own: neither its style nor its script meets the notebook's.

    The frame takes the height that the document reports, and `height` until then, or for good
    where the host runs no script.
    """
    # Hosts rewrite what looks like tags; an apostrophe harms nothing between double quotes.
    content = Markup(str(escape(document)).replace("&#39;", "'"))
    return render("frame", content=content, height=height, script=Markup(asset("frame.js")))


def _document(sections: Sequence[Section], title: str | None) -> str:
    heading = title if title is not None else (sections[0].title if sections else "mi_toolkit")
    # No Markup: in a notebook the document is escaped once more, as the frame's attribute.
    return str(
        render(
            "page",
            policy=Markup(CONTENT_POLICY),
            heading=heading,
            sections=sections,
            style=Markup(asset("page.css") + content_style()),
            shared=Markup(bundle()) if any(section.properties for section in sections) else "",
            script=Markup(asset("page.js")),
        )
    )


def content_style() -> str:
    """The look of what sections hold, wherever they stand; it asks for the colours of the page."""
    return asset("content.css")


class SavedView(ABC):
    """A view that a notebook shows and a file keeps."""

    @abstractmethod
    def section(self) -> Section:
        """The view's part of a page."""

    @abstractmethod
    def figure(self) -> Figure:
        """The view as one picture."""

    def save_html(self, path: str | os.PathLike[str]) -> None:
        """Write a page of this view alone; `Page` puts several views on one."""
        Page([self]).save_html(path)

    def save_png(self, path: str | os.PathLike[str]) -> None:
        """Write one picture: a PNG, or SVG or PDF where the name ends in `.svg` or `.pdf`.

        Raises:
            UnknownNameError: any other ending.
        """
        self._save_picture(path, PICTURES)

    def save_svg(self, path: str | os.PathLike[str]) -> None:
        """Write one picture as SVG.

        Raises:
            UnknownNameError: the name ends in anything but `.svg`.
        """
        self._save_picture(path, ["svg"])

    def _save_picture(self, path: str | os.PathLike[str], kinds: Sequence[str]) -> None:
        picture_kind(path, kinds)
        figures.save_figure(self.figure(), path)

    def _repr_html_(self) -> str:
        return Page([self])._repr_html_()


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ResultView(SavedView):
    """A result to look at: as a page, as PNG or as SVG."""

    title: str
    """Plain text."""

    caption: str
    """What is shown and how to read it, as plain text."""

    draw: Callable[[], Figure] | None
    """Makes the picture; None where there is none."""

    body: Callable[[], Markup] = Markup
    """Makes the page's HTML."""

    height: int | None = None
    """Pixels that the page takes in a notebook; None: the picture stands on it, over the body."""

    def section(self) -> Section:
        """The view's part of a page."""
        body, height = self.body(), self.height
        if height is None:
            figure = self.figure()
            svg = base64.b64encode(figures.as_svg(figure).encode()).decode()
            width = f"{figure.get_figwidth() * 96:.0f}"
            body = render("picture", title=self.title, width=width, svg=svg) + body
            height = round(figure.get_figheight() * 96) + 400
        return Section(title=self.title, caption=self.caption, body=body, height=height)

    def figure(self) -> Figure:
        """The view as one picture.

        Raises:
            MIToolkitError: the view has none.
        """
        if self.draw is None:
            raise MIToolkitError(f"{self!r} has no picture: save_html writes it as a page.")
        return self.draw()

    def __repr__(self) -> str:
        return f"View of {self.title}"


BUNDLE = "dist/cdn/iife.js"
DECIMALS = 4
FULL_ATTENTION_COLOUR = "#08519c"
CIRCUITSVIS_UP_TO = 150
"""Tokens of the longest prompt that circuitsvis draws; a longer one becomes a plain picture."""

_UNSAFE = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


@cache
def bundle() -> str:
    """The script that defines `CircuitsVis`, gzipped and in base64: 0.5 MB instead of 1.3.

    Raises:
        MIToolkitError: the installed circuitsvis comes without it.
    """
    path = Path(circuitsvis.__file__).parent / BUNDLE
    if not path.is_file():
        raise MIToolkitError(
            f"The installed circuitsvis {circuitsvis.__version__} has no {BUNDLE}, without which "
            "its views need a network. Install it again: pip install --force-reinstall circuitsvis"
        )
    return base64.b64encode(gzip.compress(path.read_bytes(), mtime=0)).decode("ascii")


def attention_heads(
    patterns: Float[Tensor, "head query key"], tokens: Sequence[str], names: Sequence[str]
) -> Markup:
    """What the page's script needs to show several heads, one of them large, as JSON.

    Values are rounded to four decimals; the future, which no query sees, is left out.
    """
    rounded = patterns.double().mul(10**DECIMALS).round().div(10**DECIMALS)
    return json_in_html(
        {
            "heads": list(names),
            "tokens": list(tokens),
            "attention": [
                [[value or 0 for value in row[: query + 1]] for query, row in enumerate(pattern)]
                for pattern in rounded.tolist()
            ],
            "fullColour": FULL_ATTENTION_COLOUR,
            "circuitsvisUpTo": CIRCUITSVIS_UP_TO,
        }
    )


def json_in_html(value: object) -> Markup:
    r"""`value` as compact JSON that is safe inside a `<script>` element.

    >>> json_in_html("</script>")
    Markup('"\\u003c/script\\u003e"')
    """
    written = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(written.translate(_UNSAFE))
