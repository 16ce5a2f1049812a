"""A confirmation as part of a page: a table with a strip for each trial."""

from __future__ import annotations

import html
import os
from dataclasses import dataclass

from mi_toolkit.draw import figures
from mi_toolkit.draw.page import Page, Section
from mi_toolkit.draw.primitives import VERDICTS
from mi_toolkit.interventions.confirm.confirmation import (
    Confirmation,
    HypothesisTest,
    LayerPart,
    details,
    trial_row,
)
from mi_toolkit.interventions.confirm.losses import Effect

STRIP_WIDTH, STRIP_HEIGHT, MARGIN = 260, 22, 6


@dataclass(frozen=True, eq=False, repr=False)
class ConfirmationView:
    """A confirmation that a notebook draws and a file keeps."""

    confirmation: Confirmation
    """What is shown."""

    def section(self) -> Section:
        """The view's part of a page."""
        found = self.confirmation
        return Section(
            title=found.title(),
            caption=(
                "How much worse the model predicts without the labelled heads (coloured, with its "
                "95% interval), next to other heads (grey). Strips of one label share a scale; the "
                "line is no change. A label survives where few other sets do as much, over all "
                f"labels tested (false discovery rate {found.alpha:g}). Below a set: its heads "
                "layer by layer, and what the sets that do as much have in common."
            ),
            body=f'{_table(found)}<p class="facts">{html.escape(_facts(found))}</p>',
            height=220 + 36 * len(found.cells()),
        )

    def save_html(self, path: str | os.PathLike[str]) -> None:
        """Write a page of this view alone; `Page` puts several views on one."""
        Page([self]).save_html(path)

    def save_png(self, path: str | os.PathLike[str]) -> None:
        """Write it as one picture."""
        figures.save_figure(figures.confirmation_figure(self.confirmation), path)

    def _repr_html_(self) -> str:
        return Page([self])._repr_html_()

    def __repr__(self) -> str:
        return f"ConfirmationView({self.confirmation.title()})"


def view_confirmation(confirmation: Confirmation) -> ConfirmationView:
    """A confirmation to look at: in a notebook, as a page, as a picture.

    Example:
        >>> import mi_toolkit as mi
        >>> found = mi.confirm_heads(mi.load_model("toy-gpt2"), {"induction": ["L2H0"]})
        >>> mi.view(found)
        ConfirmationView(Labels of toy-gpt2 under mean ablation)
    """
    return ConfirmationView(confirmation)


def _table(found: Confirmation) -> str:
    names = ["label", "ablated", "against other heads", "loss change (nats)", "effect (sd)"]
    names += ["percentile", *(["in its layer"] if found.by == "head" else []), "verdict"]
    rows = ["<tr>" + "".join(f"<th>{name}</th>" for name in names) + "</tr>"]
    rows += [row for trial in found.trials for row in (_row(found, trial), *_details(found, trial))]
    span = len(names) - 1
    rows += [
        f'<tr><th>{html.escape(label)}</th><td colspan="{span}">not tested: '
        f"{html.escape(why)}</td></tr>"
        for label, why in found.untested.items()
    ]
    return f'<div class="wide"><table>{"".join(rows)}</table></div>'


def _row(found: Confirmation, trial: HypothesisTest) -> str:
    label, ablated, change, effect, percentile, verdict = map(
        html.escape, trial_row(trial, found.by)
    )
    names = html.escape(" ".join(map(str, trial.heads)))
    rank = ""
    if trial.rank_in_layer is not None:
        rank = f"<td>{trial.rank_in_layer[0]} of {trial.rank_in_layer[1]}</td>"
    colour = VERDICTS[trial.verdict]
    return (
        f"<tr><th>{label}<small>on {html.escape(trial.stimulus)}</small></th>"
        f'<td title="{names}">{ablated}</td>'
        f"<td>{_strip(found, trial.label, _Shown.of(trial.effect), VERDICTS[trial.verdict])}</td>"
        f"<td>{change}</td><td>{effect}</td><td>{percentile}</td>{rank}"
        f'<td style="color:{colour};white-space:normal">{verdict}</td></tr>'
    )


def _details(found: Confirmation, trial: HypothesisTest) -> list[str]:
    """What is behind a verdict, row by row; layers first, with strips of their own."""
    layers = trial.explanation.layers if trial.explanation else ()
    rows = []
    for place, cells in enumerate(details(trial)):
        _, ablated, change, effect, percentile, note = map(html.escape, cells)
        strip = ""
        if place < len(layers):
            strip = _strip(found, trial.label, _Shown.of(layers[place]), "#555555")
        rows.append(
            f"<tr><th></th><td>{ablated}</td><td>{strip}</td><td>{change}</td><td>{effect}</td>"
            f'<td>{percentile}</td><td style="white-space:normal">{note}</td></tr>'
        )
    return rows


@dataclass(frozen=True)
class _Shown:
    """A change with its interval, and those of other heads."""

    change: float
    low: float
    high: float
    others: tuple[float, ...]

    @staticmethod
    def of(found: Effect | LayerPart) -> _Shown:
        others = found.random if isinstance(found, Effect) else found.others
        return _Shown(found.change, found.change_low, found.change_high, tuple(others.tolist()))

    @property
    def values(self) -> list[float]:
        """All that must fit on a scale."""
        every = [*self.others, self.change, self.low, self.high]
        return [value for value in every if value == value]


def _strip(found: Confirmation, label: str, shown: _Shown, colour: str) -> str:
    every = [0.0]
    for other in found[label]:
        every += _Shown.of(other.effect).values
        for part in other.explanation.layers if other.explanation else ():
            every += _Shown.of(part).values
    low, high = min(every), max(every)

    def place(value: float) -> str:
        share = (value - low) / (high - low) if high > low else 0.5
        return f"{MARGIN + share * (STRIP_WIDTH - 2 * MARGIN):.1f}"

    middle = STRIP_HEIGHT // 2
    dots = "".join(
        f'<circle cx="{place(change)}" cy="{middle}" r="2.5"/>' for change in shown.others
    )
    interval = ""
    if shown.low == shown.low:
        interval = (
            f'<path d="M{place(shown.low)} {middle}H{place(shown.high)}" '
            f'stroke="{colour}" stroke-width="2"/>'
        )
    zero = place(0.0)
    return (
        f'<svg role="img" aria-label="change {shown.change:.3f} among those of other heads" '
        f'width="{STRIP_WIDTH}" height="{STRIP_HEIGHT}">'
        f'<path d="M{zero} 0V{STRIP_HEIGHT}" stroke="#999"/>'
        f'<g fill="#888" fill-opacity="0.45">{dots}</g>{interval}'
        f'<circle cx="{place(shown.change)}" cy="{middle}" r="5" fill="{colour}"/></svg>'
    )


def _facts(found: Confirmation) -> str:
    made = found.provenance
    versions = ", ".join(f"{name} {version}" for name, version in made.versions.items())
    return (
        f"{made.model} in {made.dtype} as {made.backend}, {found.how} ablation. {found.facts()} "
        f"{versions}."
    )
