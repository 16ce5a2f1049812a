"""What a label rests on, and what is known of a head: text and tables beside a map of heads."""

from __future__ import annotations

import html
import math

from mi_toolkit.heads.head import Head
from mi_toolkit.heads.labels import UNCLASSIFIED
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.pipeline.pipeline import Pipeline
from mi_toolkit.views.buttons import pick_button
from mi_toolkit.views.colours import LABELS, OTHER_LABEL
from mi_toolkit.views.head_buttons import can_show, measured_by
from mi_toolkit.views.head_maps import figure_text, signed

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
