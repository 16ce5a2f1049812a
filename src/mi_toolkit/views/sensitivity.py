"""A page of a sensitivity run: dose curves with the band of the controls, and where scores lie."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mi_toolkit.views.page import Page
from mi_toolkit.views.section import Section
from mi_toolkit.views.sensitivity_pictures import fidelity_pictures

if TYPE_CHECKING:
    from mi_toolkit.sensitivity.study import Study

WIDTH, HEIGHT, MARGIN = 460, 240, 52
BAND, TOP, MATCHED, BOTTOM = "#9ab", "#c0392b", "#2c6fbb", "#7f8c8d"
_SHOWN = 20

Row = Mapping[Any, Any]


@dataclass(frozen=True)
class _Part:
    """One section as a view."""

    content: Section

    def section(self) -> Section:
        """It."""
        return self.content


def view_study(study: Study, title: str) -> Page:
    """Dose curves, sums by layer and component, sums by head, and the top weights.

    Args:
        study: of `run_study`.
        title: the page's heading.
    """
    layers = study.layers.to_dict("records")
    parts: list[Section] = []
    if study.effects is not None:
        parts.append(_dose_section(study.effects.to_dict("records")))
    parts += [picture.section() for picture in fidelity_pictures(study)]
    for metric in dict.fromkeys(row["metric"] for row in layers):
        chosen = [row for row in layers if row["metric"] == metric]
        parts.append(_layer_section(metric, chosen))
        if study.heads is not None:
            heads = [row for row in study.heads.to_dict("records") if row["metric"] == metric]
            parts.append(_head_section(metric, heads))
    largest = max(k for _, k in study.top)
    for (metric, k), table in study.top.items():
        if k == largest:
            parts.append(_top_section(metric, k, table.head(_SHOWN).to_dict("records")))
    return Page([_Part(part) for part in parts], title=title)


def _dose_section(effects: Sequence[Row]) -> Section:
    curves = dict.fromkeys((row["metric"], row["kind"]) for row in effects)
    figures = [
        dose_curve([row for row in effects if (row["metric"], row["kind"]) == curve], *curve)
        for curve in curves
    ]
    return Section(
        title="What changing the top weights does",
        caption=(
            "Rise of the loss on held-out text, in nats per token, by how many weights are changed."
            " Red: the top. Grey band: random weights of the same matrices, mean and two standard "
            "deviations to each side. Blue: weights of the same size. Dotted: the lowest scores."
        ),
        body="".join(figures),
        height=320 * len(figures),
    )


def dose_curve(rows: Sequence[Row], metric: str, kind: str) -> str:
    """One dose curve as an HTML figure; a dose is a place on the axis, not a distance."""
    rows = sorted(rows, key=lambda row: row["k"])
    lines = {TOP: "top", MATCHED: "magnitude_matched", BOTTOM: "bottom"}
    bands = [
        (row["random_mean"] - 2 * spread, row["random_mean"] + 2 * spread)
        if _is_number(row["random_mean"])
        else None
        for row in rows
        for spread in [row["random_sd"] if _is_number(row["random_sd"]) else 0.0]
    ]
    values: list[float] = [
        row[name] for row in rows for name in lines.values() if _is_number(row[name])
    ]
    values += [end for band in bands if band for end in band] + [0.0]
    low, high = min(values), max(values)
    span = (high - low) or 1.0

    def x(index: int) -> float:
        return MARGIN + (WIDTH - 2 * MARGIN) * (index / max(1, len(rows) - 1))

    def y(value: float) -> float:
        return HEIGHT - 36 - (HEIGHT - 56) * (value - low) / span

    drawn = [_polygon([(x(i), y(band[0]), y(band[1])) for i, band in enumerate(bands) if band])]
    for colour, name in lines.items():
        points = [(x(i), y(row[name])) for i, row in enumerate(rows) if _is_number(row[name])]
        dashes = ' stroke-dasharray="2 3"' if name == "bottom" else ""
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}"{dashes}/>')
        drawn += [
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour}"/>' for px, py in points
        ]
    for index, row in enumerate(rows):
        drawn.append(f'<text x="{x(index):.1f}" y="{HEIGHT - 16}">{row["k"]:,}</text>')
    for value in dict.fromkeys((low, 0.0, high)):
        drawn.append(
            f'<text class="row" x="{MARGIN - 6}" y="{y(value) + 4:.1f}">{value:.3g}</text>'
        )
    name = html.escape(f"{metric}, {kind}")
    return (
        f'<figure class="map" style="width:{WIDTH}px"><figcaption><b>{name}</b></figcaption>'
        f'<svg role="img" aria-label="Dose curve of {name}" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}">{"".join(drawn)}</svg></figure>'
    )


def _polygon(band: Sequence[tuple[float, float, float]]) -> str:
    if not band:
        return ""
    if len(band) == 1:
        band = [(band[0][0] - 6, *band[0][1:]), (band[0][0] + 6, *band[0][1:])]
    there = [f"{x:.1f},{low:.1f}" for x, low, _ in band]
    back = [f"{x:.1f},{high:.1f}" for x, _, high in reversed(band)]
    return f'<polygon points="{" ".join(there + back)}" fill="{BAND}" opacity="0.4"/>'


def _layer_section(metric: str, rows: Sequence[Row]) -> Section:
    in_blocks = [row for row in rows if _is_number(row["layer"])]
    components = list(dict.fromkeys(row["component"] for row in in_blocks))
    layers = sorted({int(row["layer"]) for row in in_blocks})
    cells = {(int(row["layer"]), row["component"]): row["mean"] for row in in_blocks}
    return Section(
        title=f"{metric}: layer by component",
        caption="Mean score of a weight. Colour is on a logarithmic scale, dark where it is high.",
        body=_heat_table(layers, components, cells),
        height=90 + 26 * len(layers),
    )


def _head_section(metric: str, rows: Sequence[Row]) -> Section:
    layers = sorted({int(row["layer"]) for row in rows})
    heads = sorted({int(row["head"]) for row in rows})
    cells = {(int(row["layer"]), row["head"]): row["sum"] for row in rows}
    return Section(
        title=f"{metric}: heads",
        caption=(
            "Sum of a head's scores, layers downwards, heads across, colour on a logarithmic scale."
            " What heads share is divided among them."
        ),
        body=_heat_table(layers, heads, cells),
        height=90 + 26 * len(layers),
    )


def _heat_table(
    rows: Iterable[int], columns: Sequence[object], cells: Mapping[tuple[int, Any], float]
) -> str:
    sizes = [math.log10(abs(value)) for value in cells.values() if value]
    low, high = (min(sizes), max(sizes)) if sizes else (0.0, 1.0)
    head = "".join(f"<th>{html.escape(str(column))}</th>" for column in columns)
    lines = [f"<tr><th></th>{head}</tr>"]
    for row in rows:
        filled = "".join(_cell(cells.get((row, column)), low, high) for column in columns)
        lines.append(f"<tr><th>{row}</th>{filled}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _cell(value: float | None, low: float, high: float) -> str:
    if not value:
        return "<td></td>"
    share = (math.log10(abs(value)) - low) / ((high - low) or 1.0)
    lightness = 95 - 60 * share
    ink = "#fff" if lightness < 60 else "#222"
    style = f"background:hsl(215 60% {lightness:.0f}%);color:{ink};padding:2px 6px"
    return f'<td style="{style}">{value:.2g}</td>'


def _top_section(metric: str, k: int, rows: Sequence[Row]) -> Section:
    names = ["rank", "parameter", "row", "column", "head", "kv_head", "neuron", "weight", "score"]
    head = "".join(f"<th>{name}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_text(row[name]))}</td>" for name in names) + "</tr>"
        for row in rows
    )
    return Section(
        title=f"{metric}: the top {k:,}",
        caption=f"The first {len(rows)}. Rows and columns are canonical, [in, out].",
        body=f"<table><tr>{head}</tr>{body}</table>",
        height=90 + 24 * len(rows),
    )


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if _is_number(value) else ""
    return "" if value is None or str(value) == "<NA>" else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
