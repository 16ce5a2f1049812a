"""Heads to choose from: buttons, what a label rests on, and tables of where heads look."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from jaxtyping import Float
from markupsafe import Markup
from torch import Tensor

from mi_toolkit.core.head import Head
from mi_toolkit.draw.head_maps import Cell, HeadMap, figure_text
from mi_toolkit.draw.markup import pick_button, render, value_grid
from mi_toolkit.draw.primitives import LABELS, NOTHING, OTHER_LABEL, signed, visible
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
) -> Markup:
    """A map whose cells are buttons: layers downwards, heads across, wide maps scroll sideways.

    Args:
        head_map: what to show, such as `label_map(report)`.
        layers: the layers that have a pattern; other heads cannot be clicked.
        chosen: the head that is looked at.
        lit: the heads that stand out, the others pale; None for all.
    """
    reachable = [cell.head for cell in head_map.cells if cell.head.layer in layers]
    first = chosen if chosen in reachable else next(iter(reachable), None)

    def button(cell: Cell) -> Markup:
        pale = " pale" if lit is not None and cell.head not in lit else ""
        return pick_button(
            str(cell.head),
            "",
            is_chosen=cell.head == chosen,
            is_in_reach=cell.head == first,
            tip=cell.tip,
            kind=("nothing" if cell.colours == (NOTHING,) else "filled") + pale,
            style=_strips(cell.colours),
        )

    return render("head_buttons", map=head_map, layers=layers, button=button, wide_up_to=WIDE_UP_TO)


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


def label_buttons(report: HeadReport, chosen: str | None = None) -> Markup:
    """Every label, scope and `unclassified` as a button with its colour and its number of heads.

    What nothing in the texts could show is grey and says so.
    """
    labels = [
        (
            name,
            LABELS.get(name, OTHER_LABEL if name in report.label_names else NOTHING),
            len(report.heads(name)),
            can_show(report, name),
        )
        for name in choices(report)
    ]
    return render("label_buttons", labels=labels, chosen=chosen)


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


OFFER = "prompt"
"""What is picked to take the offered prompt."""


def listing_html(report: HeadReport, label: str, *, offer: str | None = None) -> Markup:
    """The heads with a label, each a button, with lift and interval.

    Args:
        report: whose heads.
        label: a label, a scope, or `unclassified`.
        offer: where nothing could show the label, a prompt that can, offered as a button; None
            where it takes several.
    """
    heads = report.heads(label)
    shown: dict[str, Any] = {
        "label": label,
        "meaning": "",
        "sentences": [],
        "names": [],
        "rows": [],
    }
    if label == UNCLASSIFIED:
        sentences = ["Heads without a label on this prompt."]
        return render("listing", **shown | {"sentences": sentences, "names": heads})
    behaviour = measured_by(report, label)
    shown["meaning"] = _meaning(report, label)
    if not can_show(report, label):
        shown["sentences"] = [_why_not(report, behaviour), _offer(offer)]
    elif not heads and label != behaviour:
        shown["sentences"] = ["No head does it on this prompt."]
    elif not heads:
        strongest = report.strongest(behaviour)
        nearest = Markup("No head does it beyond doubt. Nearest: {} {}.")
        button = pick_button(str(strongest), str(strongest))
        shown["sentences"] = [nearest.format(button, figure_text(report, behaviour, strongest))]
    shown["rows"] = [
        (head, figure_text(report, behaviour, head) + _copying(report, label, head))
        for head in heads
        if can_show(report, label)
    ]
    figure = "lift" if report.facts[behaviour].has_chance else "value"
    return render("listing", **shown, figure=figure)


def _meaning(report: HeadReport, label: str) -> str:
    behaviour = measured_by(report, label)
    meaning = report.meaning(behaviour if label in report.scope_names else label)
    is_target = report.facts[behaviour].kind == "mask"
    return f"Looks at {meaning}" if is_target else meaning[:1].upper() + meaning[1:]


def _copying(report: HeadReport, label: str, head: Head) -> str:
    return report.copying_text(label, head) if label in report.label_names else ""


def _why_not(report: HeadReport, behaviour: str) -> str:
    if not report.applicable[behaviour]:
        return f"Nothing in this prompt can show it: it needs {report.facts[behaviour].trigger}."
    return (
        f"This prompt shows it too rarely: {report.n_queries[behaviour]} tokens to judge by "
        "are too few for an interval."
    )


def _offer(offer: str | None) -> str:
    if offer is None:
        return "No single prompt can: classify_heads(model) measures it on texts of its own."
    put = Markup("Put a prompt that can into the box: <b>{}</b>").format(offer)
    return pick_button(OFFER, put)


def head_html(report: HeadReport, traced: Pipeline, head: Head) -> Markup:
    """One head's labels, where it looks and how spread, and its figure for every behaviour."""
    return render(
        "head",
        labels=list(zip(report.labels_of(head), report.labels_in_words(head), strict=True)),
        facts=" ".join(_facts(report, traced, head)),
        rows=[_figure_row(report, name, head) for name in report.behaviours],
    )


def _facts(report: HeadReport, traced: Pipeline, head: Head) -> list[str]:
    stage = traced.attention
    spread = float(stage.entropies[stage.layers.index(head.layer), head.head])
    said = []
    if not math.isnan(spread):
        said.append(f"Spread {spread:.2f} (0 looks at one token, 1 at all alike).")
    if "locality" in report.behaviours:
        said.append(f"Scope: {report.scope_names[int(report.scope[head])]}.")
    n_heads = int(report.score.shape[-1])
    if report.n_kv_heads < n_heads:
        own = report.kv_head(head)
        others = [
            str(Head(head.layer, other))
            for other in range(n_heads)
            if other != head.head and report.kv_head((head.layer, other)) == own
        ]
        said.append(f"Reads KV head {own}, as {', '.join(others)} do." if others else "")
    window = report.windows[head.layer]
    if window is not None:
        said.append(f"Its layer sees {window} tokens back at most.")
    return [each for each in said if each]


def _figure_row(report: HeadReport, behaviour: str, head: Head) -> tuple[str, str | None, str]:
    if not report.applicable[behaviour]:
        return behaviour, None, ""
    has_chance = report.facts[behaviour].has_chance
    null = float(report.null[report.index(behaviour)][head])
    chance = f"{null:.2f}" if has_chance else "\N{EN DASH}"
    return behaviour, _figure(report, behaviour, head), chance


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


def pattern_html(pattern: Float[Tensor, "query key"], tokens: Sequence[str], name: str) -> Markup:
    """A pattern with its tokens: queries downwards, keys across.

    Up to 24 tokens every value stands in its cell, in percent; beyond, pixels stand for them, and
    the strongest keys of every query are listed beneath.

    Args:
        pattern: attention from each query to each key, in [0, 1].
        tokens: the text of each position, as the model reads it.
        name: the head's.
    """
    labels = [visible(token, longest=LABEL_LENGTH) for token in tokens]
    n_tokens = len(labels)
    if n_tokens <= MOST_WRITTEN:
        return render("pattern", labels=labels, values=pattern.tolist(), name=name)
    cell = min(CELL, max(SMALLEST_CELL, PICTURE // n_tokens))
    said = f"Attention pattern of {name} on {n_tokens} tokens"
    return render(
        "pattern",
        labels=labels,
        values=None,
        grid=value_grid(pattern, down=labels, across=labels, said=said, cell=cell),
        strongest=_strongest(pattern, labels),
    )


def _strongest(
    pattern: Float[Tensor, "query key"], labels: Sequence[str]
) -> Iterator[tuple[str, str]]:
    top = pattern.topk(min(STRONGEST, len(labels)), dim=-1)
    for query, (keys, values) in enumerate(
        zip(top.indices.tolist(), top.values.tolist(), strict=True)
    ):
        looked_at = [
            f"{labels[key]} {value:.0%}"
            for key, value in zip(keys, values, strict=True)
            if key <= query and value >= LEAST
        ]
        yield f"{query} {labels[query]}", ", ".join(looked_at)
