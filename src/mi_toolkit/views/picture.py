"""Views that are one picture with a few words and a table beside it."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mi_toolkit.shown import html_table
from mi_toolkit.views.page import Page
from mi_toolkit.views.section import Section

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PictureView:
    """A picture that a notebook shows and a file keeps: as a page, as PNG or as SVG."""

    title: str
    """Plain text."""

    caption: str
    """What is shown and how to read it, as plain text."""

    draw: Callable[[], Figure]
    """Makes the picture, by `views.figures`."""

    body: str = ""
    """HTML beside the picture: tables."""

    def section(self) -> Section:
        """The view's part of a page."""
        from mi_toolkit.views.figures import as_svg

        figure = self.draw()
        svg = base64.b64encode(as_svg(figure).encode()).decode()
        picture = (
            f'<figure class="picture"><img alt="{html.escape(self.title)}" '
            f'width="{figure.get_figwidth() * 96:.0f}" src="data:image/svg+xml;base64,{svg}">'
            "</figure>"
        )
        return Section(
            title=self.title,
            caption=self.caption,
            body=picture + self.body,
            height=round(figure.get_figheight() * 96) + 400,
        )

    def save_html(self, path: str | os.PathLike[str]) -> None:
        """Write a page of this view alone; `Page` puts several views on one."""
        Page([self]).save_html(path)

    def save_png(self, path: str | os.PathLike[str]) -> None:
        """Write the picture alone: a PNG, or SVG where the name ends in `.svg`."""
        from mi_toolkit.views.figures import save_figure

        save_figure(self.draw(), path)

    def __repr__(self) -> str:
        return f"PictureView of {self.title}"

    def _repr_html_(self) -> str:
        return Page([self])._repr_html_()


def wide_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain text that scrolls within its page where it is wider."""
    return f'<div class="wide">{html_table(header, rows)}</div>'
