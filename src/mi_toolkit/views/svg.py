"""Head maps for HTML pages, written as SVG by hand: a few kilobytes each, in no time.

matplotlib takes seconds for the maps of a large model and some hundred kilobytes for each; and
here every cell can tell its figures when the mouse rests on it.
"""

from __future__ import annotations

import html
from collections.abc import Iterator

from mi_toolkit.views.colours import FRAME, NOTHING, ink_on
from mi_toolkit.views.head_maps import Cell, HeadMap, signed

CELL_WIDTH, NARROW_CELL_WIDTH, CELL_HEIGHT = 34, 29, 24
WIDE_UP_TO = 13
"""Heads in a layer with wide cells; narrow ones let two maps of 16 heads stand side by side."""

TOP, BOTTOM, RIGHT = 4, 34, 4
SIGN_WIDTH = 6
NARROWEST = 230


def map_figure(head_map: HeadMap) -> str:
    """A map with its title and its legend, as an HTML `<figure>`."""
    width = max(_width(head_map), NARROWEST)
    title, subtitle = html.escape(head_map.title), html.escape(head_map.subtitle)
    kind = "map" if head_map.scale is not None else "map named"
    return (
        f'<figure class="{kind}" style="width:{width}px">'
        f"<figcaption><b>{title}</b> {subtitle}</figcaption>"
        f"{map_svg(head_map)}{_legend(head_map)}</figure>"
    )


def map_svg(head_map: HeadMap) -> str:
    """The map alone, as an `<svg>` element without ids."""
    left, width, across = _left(head_map), _width(head_map), _cell_width(head_map)
    height = TOP + len(head_map.layers) * CELL_HEIGHT + BOTTOM
    framed = ", ".join(str(cell.head) for cell in head_map.cells if cell.is_framed)
    described = f"{head_map.title}, {head_map.subtitle}: layers downwards, heads across."
    if framed:
        described += f" Labelled: {framed}."
    start = (
        f'<svg role="img" aria-label="{html.escape(described)}" width="{width}" '
        f'height="{height}" viewBox="0 0 {width} {height}">'
    )
    return "".join(
        [
            start,
            *_axes(head_map, left, height),
            f'<g transform="translate({left} {TOP})">',
            *(part for cell in head_map.cells for part in _fills(cell, across)),
            *(part for cell in head_map.cells for part in _marks(cell, across)),
            "</g></svg>",
        ]
    )


def _cell_width(head_map: HeadMap) -> int:
    return CELL_WIDTH if head_map.n_heads <= WIDE_UP_TO else NARROW_CELL_WIDTH


def _left(head_map: HeadMap) -> int:
    return 22 + SIGN_WIDTH * max(len(name) for name in head_map.layers)


def _width(head_map: HeadMap) -> int:
    return _left(head_map) + head_map.n_heads * _cell_width(head_map) + RIGHT


def _axes(head_map: HeadMap, left: int, height: int) -> Iterator[str]:
    across = _cell_width(head_map)
    middle = TOP + len(head_map.layers) * CELL_HEIGHT // 2
    centre = left + head_map.n_heads * across // 2
    yield f'<text class="axis" x="{centre}" y="{height - 3}">head</text>'
    yield f'<text class="axis" transform="translate(11 {middle}) rotate(-90)">layer</text>'
    for row, name in enumerate(head_map.layers):
        y = TOP + row * CELL_HEIGHT + CELL_HEIGHT // 2 + 4
        yield f'<text class="row" x="{left - 5}" y="{y}">{html.escape(name)}</text>'
    for column in range(head_map.n_heads):
        x = left + column * across + across // 2
        yield f'<text x="{x}" y="{height - BOTTOM + 14}">{column}</text>'


def _fills(cell: Cell, across: int) -> Iterator[str]:
    x, y = cell.head.head * across, cell.head.layer * CELL_HEIGHT
    tip = f"<title>{html.escape(cell.tip)}</title>"
    strip = (across - 1) / len(cell.colours)
    for index, colour in enumerate(cell.colours):
        yield (
            f'<rect x="{x + index * strip:g}" y="{y}" width="{strip:g}" '
            f'height="{CELL_HEIGHT - 1}" {_fill(colour)}>{tip}</rect>'
        )


def _fill(colour: str) -> str:
    """The colour of nothing is the page's to choose: it is another in the dark."""
    return 'class="nothing"' if colour == NOTHING else f'fill="{colour}"'


def _marks(cell: Cell, across: int) -> Iterator[str]:
    x, y = cell.head.head * across, cell.head.layer * CELL_HEIGHT
    right, bottom = x + across - 1, y + CELL_HEIGHT - 1
    if not cell.is_measured:
        yield f'<path class="hatch" d="M{x} {bottom}L{right} {y}"/>'
    if cell.is_framed:
        yield f'<path class="frame" d="M{x + 1} {y + 1}H{right - 1}V{bottom - 1}H{x + 1}Z"/>'
    if cell.is_borderline:
        yield f'<path class="border" d="M{x + 1} {y + 1}H{right - 1}V{bottom - 1}H{x + 1}Z"/>'
    if cell.text:
        ink = ink_on(cell.colours[0])
        yield f'<text x="{x + across // 2}" y="{y + 16}" fill="{ink}">{cell.text}</text>'


def _background(colour: str) -> str:
    return 'class="nothing"' if colour == NOTHING else f'style="background:{colour}"'


def _legend(head_map: HeadMap) -> str:
    entries = [
        f"<span><i {_background(colour)}></i>{html.escape(name)}</span>"
        for name, colour in head_map.legend.items()
    ]
    if head_map.scale is not None:
        low, stops = signed(head_map.scale.low), ",".join(head_map.scale.stops)
        below = "≤ " if head_map.scale.quantity == "lift" or head_map.scale.low < 0 else ""
        entries.append(
            f'<span>{below}{low.removesuffix(".00")}<i class="ramp" '
            f'style="background:linear-gradient(90deg,{stops})"></i>1</span>'
        )
    if any(cell.is_framed for cell in head_map.cells):
        entries.append(f'<span><i class="framed" style="border-color:{FRAME}"></i>labelled</span>')
    n_borderline = sum(cell.is_borderline for cell in head_map.cells)
    if n_borderline:
        entries.append(
            f'<span><i class="framed" style="border:1px dashed {FRAME}"></i>'
            f"{n_borderline} borderline</span>"
        )
    return f'<div class="legend">{"".join(entries)}</div>'
