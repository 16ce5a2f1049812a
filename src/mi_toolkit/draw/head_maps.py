"""What a map of heads shows, cell by cell, whoever draws it: layers downwards, heads across.

Head maps for HTML pages, written as SVG by hand: a few kilobytes each, in no time.

matplotlib takes seconds for the maps of a large model and some hundred kilobytes for each; and
here every cell can tell its figures when the mouse rests on it.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from mi_toolkit.core.head import Head
from mi_toolkit.draw import primitives as colours
from mi_toolkit.draw.primitives import FRAME, NOTHING, ink_on
from mi_toolkit.heads.labels import NOT_FINITE, UNCLASSIFIED
from mi_toolkit.heads.report import HeadReport

ALL_WRITTEN_UP_TO = 64
"""Heads of a model in which every figure is written out."""

STRONGEST_WRITTEN = 6


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How a figure becomes a colour."""

    quantity: str
    """What the figure is: `lift` or `value`."""

    low: float
    """Where the first colour stands; anything lower has it too."""

    stops: colours.Stops
    """Colours from `low` to 1."""

    def colour(self, figure: float) -> str:
        """The colour of one figure."""
        return colours.shade((figure - self.low) / (1 - self.low), self.stops)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One head on a map."""

    head: Head
    colours: tuple[str, ...]
    """Side by side; a single one where a figure is shown."""

    tip: str
    """All that is known of the head here, as plain text."""

    text: str = ""
    """What is written in the cell, if anything."""

    is_framed: bool = False
    """Whether the head carries the map's label."""

    is_borderline: bool = False
    """Whether the texts cannot tell the head from the bar of the map's label."""

    is_measured: bool = True
    """Whether there is a figure; without one the cell is hatched."""


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadMap:
    """Every head of a model, with one thing about it in colour."""

    title: str
    subtitle: str
    layers: tuple[str, ...]
    """Names of the rows, with the layer's declared window where it has one."""

    n_heads: int
    cells: tuple[Cell, ...]
    """Layer by layer, head by head."""

    values: Float[Tensor, "layer head"] | None = None
    """The figures after the colours, where they are figures."""

    scale: Scale | None = None
    """How figures become colours, where they are figures."""

    legend: Mapping[str, str] = field(default_factory=dict)
    """What colours mean, where they are no figures: colour by name."""


def behaviour_map(report: HeadReport, behaviour: str) -> HeadMap:
    """One behaviour: the lift of each head, or the value of a distribution behaviour.

    Raises:
        UnknownNameError: the report does not have the behaviour.
    """
    values, scale = report[behaviour], _scale(report, behaviour)
    labelled = report.heads(behaviour) if behaviour in report.label_names else []
    written = _written(values, labelled)
    borderline = report.borderline[report.index(behaviour)]
    n_layers, n_heads = values.shape

    def cell(head: Head) -> Cell:
        figure = float(values[head])
        if math.isnan(figure):
            return Cell(
                head=head,
                colours=(colours.UNMEASURED,),
                tip=f"{head}: not measured",
                is_measured=False,
            )
        return Cell(
            head=head,
            colours=(scale.colour(figure),),
            tip=f"{head}: {figure_text(report, behaviour, head)}"
            + (", borderline" if borderline[head] else ""),
            text=signed(figure) if head in written else "",
            is_framed=head in labelled,
            is_borderline=bool(borderline[head]),
        )

    return HeadMap(
        title=behaviour,
        subtitle=f"{scale.quantity}, on {report.stimulus[behaviour]}",
        layers=_layer_names(report),
        n_heads=n_heads,
        cells=tuple(cell(Head(l, h)) for l in range(n_layers) for h in range(n_heads)),
        values=values,
        scale=scale,
    )


def scope_map(report: HeadReport) -> HeadMap:
    """Whether each head looks near or far."""
    n_layers, n_heads = report.scope.shape

    def cell(head: Head) -> Cell:
        name = report.scope_names[int(report.scope[head])]
        return Cell(head=head, colours=(colours.SCOPES[name],), tip=f"{head}: {name}")

    return HeadMap(
        title="scope",
        subtitle="where a head looks, the sink apart",
        layers=_layer_names(report),
        n_heads=n_heads,
        cells=tuple(cell(Head(l, h)) for l in range(n_layers) for h in range(n_heads)),
        legend={name: colours.SCOPES[name] for name in report.scope_names},
    )


def label_map(report: HeadReport) -> HeadMap:
    """Every head's labels at once, a strip of colour for each."""
    n_layers, n_heads = report.scope.shape
    not_finite = set(report.heads(NOT_FINITE))

    def cell(head: Head) -> Cell:
        names = report.labels_of(head)
        bare = NOT_FINITE if head in not_finite else UNCLASSIFIED
        strips = tuple(colours.LABELS.get(name, colours.OTHER_LABEL) for name in names)
        return Cell(
            head=head,
            colours=strips or (colours.NOTHING,),
            tip=f"{head}: {', '.join(names) or bare}",
        )

    carried = [name for name in report.label_names if report.heads(name)]
    legend = {name: colours.LABELS.get(name, colours.OTHER_LABEL) for name in carried}
    return HeadMap(
        title="labels",
        subtitle="all that a head carries",
        layers=_layer_names(report),
        n_heads=n_heads,
        cells=tuple(cell(Head(l, h)) for l in range(n_layers) for h in range(n_heads)),
        legend=legend | {UNCLASSIFIED: colours.NOTHING},
    )


def maps_of(report: HeadReport) -> list[HeadMap]:
    """Labels, scope, then each behaviour that could show, or all of them hatched if none could."""
    maps = [label_map(report)] if report.label_names else []
    if "locality" in report.behaviours and report.applicable["locality"]:
        maps.append(scope_map(report))
    shown = [name for name in report.behaviours if report.applicable[name]]
    return [*maps, *(behaviour_map(report, name) for name in shown or report.behaviours)]


def signed(figure: float) -> str:
    """Two decimals, with a true minus sign, and no minus before a zero.

    >>> signed(-0.5), signed(-0.001)
    ('−0.50', '0.00')
    """
    return f"{round(figure, 2) + 0.0:.2f}".replace("-", "\N{MINUS SIGN}")


def figure_text(report: HeadReport, behaviour: str, head: Head) -> str:
    """A head's figure with its interval: `0.93 [0.91, 0.95]`."""
    row = report.index(behaviour)
    figure = signed(float(report[behaviour][head]))
    low, high = float(report.ci_low[row][head]), float(report.ci_high[row][head])
    if math.isnan(low):
        return f"{figure} (too few queries for an interval)"
    return f"{figure} [{signed(low)}, {signed(high)}]"


def _scale(report: HeadReport, behaviour: str) -> Scale:
    if report.facts[behaviour].has_chance:
        return Scale(quantity="lift", low=0.0, stops=colours.SEQUENTIAL)
    if behaviour == "locality":  # the one whose values below 0 mean something: farther than even
        return Scale(quantity="value", low=-1.0, stops=colours.DIVERGING)
    return Scale(quantity="value", low=0.0, stops=colours.SEQUENTIAL)


def _written(values: Float[Tensor, "layer head"], labelled: Sequence[Head]) -> set[Head]:
    """The heads whose figure is written out: all of few, else the labelled and the strongest."""
    known = [Head(*index) for index in (~values.isnan()).nonzero().tolist()]
    if values.numel() <= ALL_WRITTEN_UP_TO:
        return set(known)
    strongest = sorted(known, key=lambda head: -float(values[head]))[:STRONGEST_WRITTEN]
    return {*labelled, *strongest}


def _layer_names(report: HeadReport) -> tuple[str, ...]:
    return tuple(
        str(layer) if window is None else f"{layer} (window {window})"
        for layer, window in enumerate(report.windows)
    )


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
