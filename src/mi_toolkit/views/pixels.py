"""Matrices as small pictures inside a page: PNG written by hand, one pixel to a value.

matplotlib takes tens of milliseconds for each; a page of a large model's heads has hundreds.
"""

from __future__ import annotations

import base64
import html
import struct
import zlib

import torch
from jaxtyping import Float
from torch import Tensor

from mi_toolkit.views.colours import SEQUENTIAL, Stops, shade

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
