"""What a map of heads shows, cell by cell, whoever draws it: layers downwards, heads across.

On a page it is SVG from a template, a few kilobytes each, in no time: matplotlib takes seconds for
the maps of a large model, and here every cell shows its figures when the mouse rests on it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jaxtyping import Float
from markupsafe import Markup
from torch import Tensor

from mi_toolkit.core.head import Head
from mi_toolkit.draw import primitives as colours
from mi_toolkit.draw.markup import render
from mi_toolkit.draw.primitives import signed
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

    @property
    def framed(self) -> list[Head]:
        """The heads that carry the map's label."""
        return [cell.head for cell in self.cells if cell.is_framed]

    @property
    def described(self) -> str:
        """The map in words."""
        said = f"{self.title}, {self.subtitle}: layers downwards, heads across."
        return f"{said} Labelled: {', '.join(map(str, self.framed))}." if self.framed else said


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
        legend={name: colours.SCOPES[name] for name in report.scope_names if report.heads(name)},
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
            tip=f"{head}: {', '.join(report.labels_in_words(head)) or bare}",
        )

    carried = [name for name in report.label_names if report.heads(name)]
    legend = {name: colours.LABELS.get(name, colours.OTHER_LABEL) for name in carried}
    bare = [name for name in (UNCLASSIFIED, NOT_FINITE) if report.heads(name)]
    return HeadMap(
        title="labels",
        subtitle="all that a head carries",
        layers=_layer_names(report),
        n_heads=n_heads,
        cells=tuple(cell(Head(l, h)) for l in range(n_layers) for h in range(n_heads)),
        legend=legend | dict.fromkeys(bare, colours.NOTHING),
    )


def maps_of(report: HeadReport) -> list[HeadMap]:
    """Labels, scope, then each behaviour that could show, or all of them hatched if none could."""
    maps = [label_map(report)] if report.label_names else []
    if "locality" in report.behaviours and report.applicable["locality"]:
        maps.append(scope_map(report))
    shown = [name for name in report.behaviours if report.applicable[name]]
    return [*maps, *(behaviour_map(report, name) for name in shown or report.behaviours)]


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


def map_figure(head_map: HeadMap) -> Markup:
    """A map with its title and its legend, as an HTML `<figure>` without ids."""
    across = CELL_WIDTH if head_map.n_heads <= WIDE_UP_TO else NARROW_CELL_WIDTH
    left = 22 + SIGN_WIDTH * max(len(name) for name in head_map.layers)
    return render(
        "head_map",
        map=head_map,
        across=across,
        down=CELL_HEIGHT,
        top=TOP,
        bottom=BOTTOM,
        left=left,
        width=left + head_map.n_heads * across + RIGHT,
        narrowest=NARROWEST,
    )
