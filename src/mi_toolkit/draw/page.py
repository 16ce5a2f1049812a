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
import html
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Protocol, runtime_checkable

import circuitsvis
from jaxtyping import Float
from torch import Tensor

from mi_toolkit.core.errors import MIToolkitError
from mi_toolkit.core.io import atomic_write


@dataclass(frozen=True, kw_only=True)
class Section:
    """A titled part of a page: HTML, or a drawing by the page's shared script, or both."""

    title: str
    """Plain text."""

    caption: str
    """What is shown and how to read it, as plain text."""

    body: str = ""
    """HTML, without scripts and without ids: a page may hold several of the same kind."""

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

    views: Sequence[View]
    """What the page shows, first to last."""

    title: str | None = None
    """The heading and the browser's title; None for the first view's."""

    def save_html(self, path: str | os.PathLike[str]) -> None:
        """Write the page to one file, whole or not at all."""
        with atomic_write(path) as draft:
            draft.write_text(self.document(), encoding="utf-8")

    def document(self) -> str:
        """The whole HTML document."""
        return _document(self._sections(), self.title)

    def _sections(self) -> list[Section]:
        return [view.section() for view in self.views]

    def _repr_html_(self) -> str:
        sections = self._sections()
        height = 80 + sum(section.height for section in sections)
        return framed(_document(sections, self.title), height=height)


def framed(document: str, *, height: int) -> str:
    """A document in a frame of its own: neither its style nor its script meets the notebook's.

    The frame takes the height that the document tells it, and `height` until then, or for good
    where the host runs no script.
    """
    # An attribute needs only & and " escaped; < and > too, as hosts rewrite what looks like tags.
    content = html.escape(document).replace("&#x27;", "'")
    return (
        f'<iframe data-mi-toolkit sandbox="allow-scripts" title="mi_toolkit view" '
        f'style="width:100%;height:{height}px;border:0" srcdoc="{content}"></iframe>'
        f"<script>{_asset('frame.js')}</script>"
    )


def _document(sections: Sequence[Section], title: str | None) -> str:
    heading = title if title is not None else (sections[0].title if sections else "mi_toolkit")
    shared = ""
    if any(section.properties for section in sections):
        shared = f'<script type="text/plain" id="circuitsvis">{bundle()}</script>'
    body = "\n".join(
        _section_html(section, f"view-{index}-drawing", heading)
        for index, section in enumerate(sections)
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{CONTENT_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(heading)}</title>
<style>{_asset("page.css")}{content_style()}</style>
</head>
<body>
<h1>{html.escape(heading)}</h1>
{body}
{shared}
<script>{_asset("page.js")}</script>
</body>
</html>
"""


def _section_html(section: Section, drawing_id: str, heading: str) -> str:
    title = "" if section.title == heading else f"<h2>{html.escape(section.title)}</h2>"
    drawn = ""
    if section.properties:
        drawn = (
            f'<div class="circuitsvis" id="{drawing_id}"></div>'
            f'<script type="application/json" id="{drawing_id}-properties">'
            f"{section.properties}</script>"
        )
    caption = f'<p class="caption">{html.escape(section.caption)}</p>'
    return f"<section>{title}{caption}{section.body}{drawn}</section>"


def content_style() -> str:
    """The look of what sections hold, wherever they stand; it asks for the colours of the page."""
    return _asset("content.css")


@cache
def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def pick_button(
    pick: str,
    content: str,
    *,
    is_chosen: bool | None = None,
    is_in_reach: bool | None = None,
    tip: str = "",
    kind: str = "",
    style: str = "",
) -> str:
    """A button.

    Args:
        pick: what it stands for.
        content: HTML.
        is_chosen: whether it is the one of its group; None where nothing stays chosen.
        is_in_reach: whether the tabulator comes to it; False: only arrow keys do.
        tip: said for it, and where the mouse rests on it; plain text.
        kind: its classes.
        style: its style.

    >>> pick_button("L0H1", "<b>0</b>", is_chosen=True)
    '<button type="button" data-pick="L0H1" aria-pressed="true"><b>0</b></button>'
    """
    attributes = {
        "data-pick": pick,
        "aria-pressed": None if is_chosen is None else str(is_chosen).lower(),
        "tabindex": None if is_in_reach is None else "0" if is_in_reach else "-1",
        "aria-label": tip or None,
        "title": tip or None,
        "class": kind or None,
        "style": style or None,
    }
    written = "".join(
        f' {name}="{html.escape(value)}"' for name, value in attributes.items() if value is not None
    )
    return f'<button type="button"{written}>{content}</button>'


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
) -> str:
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


def json_in_html(value: object) -> str:
    r"""`value` as compact JSON that is safe inside a `<script>` element.

    >>> json_in_html("</script>")
    '"\\u003c/script\\u003e"'
    """
    written = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return written.translate(_UNSAFE)
