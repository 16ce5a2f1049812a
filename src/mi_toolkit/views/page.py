"""A page of views: one HTML document that needs no network and no other file."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from mi_toolkit.files import written_whole
from mi_toolkit.views.section import Section, View

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
        with written_whole(path) as draft:
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
        from mi_toolkit.views.circuitsvis_door import bundle

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
