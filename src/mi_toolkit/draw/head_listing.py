"""Heads to choose from: buttons, what a label rests on, and tables of where heads look."""

from __future__ import annotations

import html
import math
from collections.abc import Collection, Iterator, Sequence

from jaxtyping import Float
from torch import Tensor

from mi_toolkit.core.head import Head
from mi_toolkit.draw.head_maps import HeadMap, figure_text, signed
from mi_toolkit.draw.page import pick_button
from mi_toolkit.draw.picture import pixel_image
from mi_toolkit.draw.primitives import (
    LABELS,
    NOTHING,
    OTHER_LABEL,
    SEQUENTIAL,
    ink_on,
    shade,
    visible,
)
from mi_toolkit.heads.labels import UNCLASSIFIED
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.heads.summary import NOT_APPLICABLE, TOO_FEW
from mi_toolkit.text.pipeline import Pipeline

WIDE_UP_TO = 12
"""Heads in a layer with wide cells."""


def head_buttons(
    head_map: HeadMap,
    *,
    layers: Collection[int],
    chosen: Head | None = None,
    lit: Collection[Head] | None = None,
) -> str:
    """A map whose cells are buttons: layers downwards, heads across, wide maps scroll sideways.

    Args:
        head_map: what to show, such as `label_map(report)`.
        layers: the layers that have a pattern; other heads cannot be clicked.
        chosen: the head that is looked at.
        lit: the heads that stand out, the others pale; None for all.
    """
    reachable = [cell.head for cell in head_map.cells if cell.head.layer in layers]
    first = chosen if chosen in reachable else next(iter(reachable), None)
    over = "".join(f'<span class="over">{head}</span>' for head in range(head_map.n_heads))
    rows: list[str] = []
    for layer, name in enumerate(head_map.layers):
        rows.append(f'<span class="row">{html.escape(name)}</span>')
        for cell in head_map.cells[layer * head_map.n_heads : (layer + 1) * head_map.n_heads]:
            pale = " pale" if lit is not None and cell.head not in lit else ""
            if layer not in layers:
                rows.append(f'<span class="none" title="{cell.head}: no pattern"></span>')
                continue
            button = pick_button(
                str(cell.head),
                "",
                is_chosen=cell.head == chosen,
                is_in_reach=cell.head == first,
                tip=cell.tip,
                kind=("nothing" if cell.colours == (NOTHING,) else "filled") + pale,
                style=_strips(cell.colours),
            )
            rows.append(button)
    narrow = " narrow" if head_map.n_heads > WIDE_UP_TO else ""
    return (
        f'<div class="wide"><div class="heads{narrow}" role="group" '
        f'data-across="{head_map.n_heads}" style="--across:{head_map.n_heads}" '
        'aria-label="Heads: layers downwards, heads across; the arrow keys move">'
        f'<span class="row">layer, head</span>{over}{"".join(rows)}</div></div>'
    )


def _strips(colours: tuple[str, ...]) -> str:
    """The cell's colours side by side; that of nothing is the page's to choose."""
    if colours == (NOTHING,):
        return ""
    share = 100 / len(colours)
    stops = ",".join(
        f"{colour} {index * share:.4g}% {(index + 1) * share:.4g}%"
        for index, colour in enumerate(colours)
    )
    return f"background:linear-gradient(90deg,{stops})"


def label_buttons(report: HeadReport, chosen: str | None = None) -> str:
    """Every label, scope and `unclassified` as a button with its colour and its number of heads.

    What nothing in the texts could show is grey and says so.
    """
    buttons = "".join(_label_button(report, name, chosen) for name in choices(report))
    return f'<div class="labels" role="group" aria-label="Labels">{buttons}</div>'


def choices(report: HeadReport) -> Iterator[str]:
    """The labels, near and far, and `unclassified`."""
    yield from report.label_names
    if "locality" in report.behaviours:
        yield from ("local", "global")
    yield UNCLASSIFIED


def can_show(report: HeadReport, label: str) -> bool:
    """Whether the texts were enough to give a head this label."""
    if label == UNCLASSIFIED:
        return True
    return report.interval[measured_by(report, label)] not in (NOT_APPLICABLE, TOO_FEW)


def measured_by(report: HeadReport, label: str) -> str:
    """The behaviour whose figures a label or a scope rests on."""
    return "locality" if label in report.scope_names else report.behaviour_of(label)


def _label_button(report: HeadReport, name: str, chosen: str | None) -> str:
    shown = can_show(report, name)
    colour = LABELS.get(name, OTHER_LABEL if name in report.label_names else NOTHING)
    count = str(len(report.heads(name))) if shown else "not on this prompt"
    ground = ' class="nothing"' if colour == NOTHING else f' style="background:{colour}"'
    return pick_button(
        name,
        f"<i{ground}></i>{html.escape(name)} <small>{count}</small>",
        is_chosen=name == chosen,
        kind="" if shown else "cannot",
    )


OFFER = "prompt"
"""What is picked to take the offered prompt."""


def listing_html(report: HeadReport, label: str, *, offer: str | None = None) -> str:
    """The heads with a label, each a button, with lift and interval.

    Args:
        report: whose heads.
        label: a label, a scope, or `unclassified`.
        offer: where nothing could show the label, a prompt that can, offered as a button; None
            where it takes several.
    """
    title = f"<h3>{html.escape(label)}</h3>"
    if label == UNCLASSIFIED:
        return f"{title}<p>Heads without a label on this prompt.</p>{_names(report, label)}"
    if not can_show(report, label):
        return title + _hindered(report, label, offer)
    behaviour = measured_by(report, label)
    meaning = f"<p>{html.escape(_meaning(report, label))}.</p>"
    heads = report.heads(label)
    if not heads and label != behaviour:
        return f"{title}{meaning}<p>No head does it on this prompt.</p>"
    if not heads:
        strongest = report.strongest(behaviour)
        return (
            f"{title}{meaning}<p>No head does it beyond doubt. Nearest: {_pick(strongest)} "
            f"{figure_text(report, behaviour, strongest)}.</p>"
        )
    rows = "".join(
        f"<tr><th>{_pick(head)}</th><td>{figure_text(report, behaviour, head)}"
        f"{html.escape(_copying(report, label, head))}</td></tr>"
        for head in heads
    )
    figure = "lift" if report.facts[behaviour].has_chance else "value"
    return (
        f'{title}{meaning}<div class="wide"><table><tr><th>head</th>'
        f"<th>{figure} [95% interval]</th></tr>{rows}</table></div>"
    )


def _meaning(report: HeadReport, label: str) -> str:
    behaviour = measured_by(report, label)
    meaning = report.meaning(behaviour if label in report.scope_names else label)
    is_target = report.facts[behaviour].kind == "mask"
    return f"Looks at {meaning}" if is_target else meaning[:1].upper() + meaning[1:]


def _copying(report: HeadReport, label: str, head: Head) -> str:
    return report.copying_text(label, head) if label in report.label_names else ""


def _hindered(report: HeadReport, label: str, offer: str | None) -> str:
    behaviour = measured_by(report, label)
    if not report.applicable[behaviour]:
        why = f"Nothing in this prompt can show it: it needs {report.facts[behaviour].trigger}."
    else:
        why = (
            f"This prompt shows it too rarely: {report.n_queries[behaviour]} tokens to judge by "
            "are too few for an interval."
        )
    button = "<p>No single prompt can: classify_heads(model) measures it on texts of its own.</p>"
    if offer is not None:
        put = f"Put a prompt that can into the box: <b>{html.escape(offer)}</b>"
        button = f"<p>{pick_button(OFFER, put)}</p>"
    return f"<p>{html.escape(_meaning(report, label))}.</p><p>{html.escape(why)}</p>{button}"


def _pick(head: Head) -> str:
    return pick_button(str(head), str(head))


def _names(report: HeadReport, label: str) -> str:
    return f'<p class="names">{" ".join(map(_pick, report.heads(label)))}</p>'


def head_html(report: HeadReport, traced: Pipeline, head: Head) -> str:
    """One head's labels, where it looks and how spread, and its figure for every behaviour."""
    labels = report.labels_of(head)
    chips = "".join(
        f'<span><i style="background:{LABELS.get(name, OTHER_LABEL)}"></i>'
        f"{html.escape(name)}</span>"
        for name in labels
    )
    rows = "".join(_figure_row(report, name, head) for name in report.behaviours)
    return (
        f'<div class="legend carried">{chips or "<span>no label on this prompt</span>"}</div>'
        f"<p>{html.escape(' '.join(_facts(report, traced, head)))}</p>"
        '<div class="wide"><table class="nowrap"><tr><th>behaviour</th>'
        f"<th>lift or value [95% interval]</th><th>chance</th></tr>{rows}</table></div>"
    )


def _facts(report: HeadReport, traced: Pipeline, head: Head) -> list[str]:
    stage = traced.attention
    spread = float(stage.entropies[stage.layers.index(head.layer), head.head])
    told = []
    if not math.isnan(spread):
        told.append(f"Spread {spread:.2f} (0 looks at one token, 1 at all alike).")
    if "locality" in report.behaviours:
        told.append(f"Scope: {report.scope_names[int(report.scope[head])]}.")
    n_heads = int(report.score.shape[-1])
    if report.n_kv_heads < n_heads:
        own = report.kv_head(head)
        others = [
            str(Head(head.layer, other))
            for other in range(n_heads)
            if other != head.head and report.kv_head((head.layer, other)) == own
        ]
        told.append(f"Reads KV head {own}, as {', '.join(others)} do." if others else "")
    window = report.windows[head.layer]
    if window is not None:
        told.append(f"Its layer sees {window} tokens back at most.")
    return [each for each in told if each]


def _figure_row(report: HeadReport, behaviour: str, head: Head) -> str:
    if not report.applicable[behaviour]:
        return (
            f'<tr class="cannot"><th>{html.escape(behaviour)}</th>'
            '<td colspan="2">not on this prompt</td></tr>'
        )
    row = report.index(behaviour)
    has_chance = report.facts[behaviour].has_chance
    chance = f"{float(report.null[row][head]):.2f}" if has_chance else "\N{EN DASH}"
    return (
        f"<tr><th>{html.escape(behaviour)}</th><td>{_figure(report, behaviour, head)}</td>"
        f"<td>{chance}</td></tr>"
    )


def _figure(report: HeadReport, behaviour: str, head: Head) -> str:
    figure = float(report[behaviour][head])
    if math.isnan(figure):
        return "not measured"
    if math.isnan(float(report.ci_low[report.index(behaviour)][head])):
        return f"{signed(figure)} (too few queries)"
    return figure_text(report, behaviour, head)


MOST_WRITTEN = 24
"""Tokens up to which every value is written out."""

CELL, SMALLEST_CELL, PICTURE = 13, 1, 780
"""Pixels: of a cell of a picture, of the smallest one, and of a picture that has to be fitted."""

LABEL_LENGTH = 14

STRONGEST, LEAST = 3, 0.005
"""Keys listed of each query, and the least attention that is."""


def pattern_html(pattern: Float[Tensor, "query key"], tokens: Sequence[str], name: str) -> str:
    """A pattern with its tokens: queries downwards, keys across.

    Up to 24 tokens every value stands in its cell, in percent; beyond, pixels stand for them, and
    the strongest keys of every query are listed beneath.

    Args:
        pattern: attention from each query to each key, in [0, 1].
        tokens: the text of each position, as the model reads it.
        name: the head's.
    """
    labels = [visible(token, longest=LABEL_LENGTH) for token in tokens]
    drawn = (
        _table(pattern, labels, name)
        if len(labels) <= MOST_WRITTEN
        else _picture(pattern, labels, name) + _strongest(pattern, labels)
    )
    stops = ",".join(SEQUENTIAL)
    return (
        f'{drawn}<div class="legend"><span>attention 0<i class="ramp" '
        f'style="background:linear-gradient(90deg,{stops})"></i>100%</span>'
        "<span>down: the token that looks (query); across: the token looked at (key)</span></div>"
    )


def _table(pattern: Float[Tensor, "query key"], labels: Sequence[str], name: str) -> str:
    over = "".join(f'<th scope="col"><span>{html.escape(label)}</span></th>' for label in labels)
    rows = []
    for query, values in enumerate(pattern.tolist()):
        cells = "".join(
            _cell(value, f"{labels[query]} → {labels[key]}")
            for key, value in enumerate(values[: query + 1])
        )
        future = f'<td class="nothing" colspan="{len(labels) - query - 1}"></td>'
        rows.append(
            f'<tr><th scope="row">{html.escape(labels[query])}</th>{cells}'
            f"{future if query + 1 < len(labels) else ''}</tr>"
        )
    return (
        f'<div class="wide"><table class="pattern"><caption>Attention of {html.escape(name)} in '
        f"percent</caption><tr><td></td>{over}</tr>{''.join(rows)}</table></div>"
    )


def _cell(value: float, where: str) -> str:
    colour = shade(value, SEQUENTIAL)
    return (
        f'<td style="background:{colour};color:{ink_on(colour)}" '
        f'title="{html.escape(where)}: {value:.4f}">{value * 100:.0f}</td>'
    )


def _picture(pattern: Float[Tensor, "query key"], labels: Sequence[str], name: str) -> str:
    n_tokens = len(labels)
    cell = min(CELL, max(SMALLEST_CELL, PICTURE // n_tokens))
    step = -(-CELL // cell)
    over, left = [], []
    for place in range(0, n_tokens, step):
        span = min(step, n_tokens - place)
        label = html.escape(labels[place])
        over.append(
            f'<span class="over" style="grid-column:{place + 2}/span {span}">{label}</span>'
        )
        left.append(f'<span class="left" style="grid-row:{place + 2}/span {span}">{label}</span>')
    side = cell * n_tokens
    image = pixel_image(
        pattern, said=f"Attention pattern of {name} on {n_tokens} tokens", width=side, height=side
    )
    return (
        f'<div class="wide"><div class="pattern-pixels" style="--cell:{cell}px;--n:{n_tokens}">'
        f"{''.join(over)}{''.join(left)}{image}</div></div>"
    )


def _strongest(pattern: Float[Tensor, "query key"], labels: Sequence[str]) -> str:
    top = pattern.topk(min(STRONGEST, len(labels)), dim=-1)
    rows = "".join(
        f'<tr><th scope="row">{query} {html.escape(labels[query])}</th><td>'
        + html.escape(
            ", ".join(
                f"{labels[key]} {value:.0%}"
                for key, value in zip(keys, values, strict=True)
                if key <= query and value >= LEAST
            )
        )
        + "</td></tr>"
        for query, (keys, values) in enumerate(
            zip(top.indices.tolist(), top.values.tolist(), strict=True)
        )
    )
    return (
        "<details><summary>Where each token looks most</summary>"
        f'<div class="wide"><table>{rows}</table></div></details>'
    )
