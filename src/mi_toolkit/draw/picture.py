"""Views that are one picture with a few words and a table, and pictures by the pixel.

Matrices as small pictures inside a page: PNG written by hand, one pixel to a value.

matplotlib takes tens of milliseconds for each; a page of a large model's heads has hundreds.
"""

from __future__ import annotations

import base64
import html
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from mi_toolkit.core.display import html_table
from mi_toolkit.draw import figures
from mi_toolkit.draw.page import Page, Section
from mi_toolkit.draw.primitives import SEQUENTIAL, Stops, shade

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
    """HTML next to the picture: tables."""

    def section(self) -> Section:
        """The view's part of a page."""
        figure = self.draw()
        svg = base64.b64encode(figures.as_svg(figure).encode()).decode()
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
        figures.save_figure(self.draw(), path)

    def __repr__(self) -> str:
        return f"PictureView of {self.title}"

    def _repr_html_(self) -> str:
        return Page([self])._repr_html_()


def wide_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain text that scrolls within its page where it is wider."""
    return f'<div class="wide">{html_table(header, rows)}</div>'


_LEVELS = 256


def pixel_image(
    values: Float[Tensor, "row column"],
    *,
    said: str,
    width: int,
    height: int,
    stops: Stops = SEQUENTIAL,
) -> str:
    """An `<img>` of values in [0, 1] on a scale of colours; what lies outside has an end's colour.

    `said` stands in for the picture where it is not seen, and is told where the mouse rests on it.
    """
    source = base64.b64encode(_png(values, stops)).decode()
    text = html.escape(said)
    return (
        f'<img class="pixels" alt="{text}" title="{text}" width="{width}" height="{height}" '
        f'src="data:image/png;base64,{source}">'
    )


def _png(values: Float[Tensor, "row column"], stops: Stops) -> bytes:
    levels = (values.clamp(0, 1) * (_LEVELS - 1)).round().to(torch.uint8)
    rows = b"".join(b"\0" + bytes(row) for row in levels.tolist())
    palette = b"".join(
        bytes.fromhex(shade(level / (_LEVELS - 1), stops)[1:]) for level in range(_LEVELS)
    )
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 8, 3, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"PLTE", palette), (b"IDAT", zlib.compress(rows, 9)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*each) for each in (*chunks, (b"IEND", b"")))


def _chunk(name: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum
