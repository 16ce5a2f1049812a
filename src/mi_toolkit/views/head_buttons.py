"""Heads and labels as buttons, for pages that listen: what was clicked stands in `data-pick`."""

from __future__ import annotations

import html
from collections.abc import Collection, Iterator

from mi_toolkit.heads.head import Head
from mi_toolkit.heads.labels import UNCLASSIFIED
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.heads.summary import NOT_APPLICABLE, TOO_FEW
from mi_toolkit.views.buttons import pick_button
from mi_toolkit.views.colours import LABELS, NOTHING, OTHER_LABEL
from mi_toolkit.views.head_maps import HeadMap

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
