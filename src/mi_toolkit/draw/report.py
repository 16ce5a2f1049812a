"""A head report as a page: what each label rests on, which heads carry it, and a map of each."""

from __future__ import annotations

import html
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mi_toolkit.draw import figures
from mi_toolkit.draw.head_maps import figure_text, map_figure, maps_of
from mi_toolkit.draw.page import Page, Section
from mi_toolkit.draw.picture import PictureView, wide_table
from mi_toolkit.heads.labels import NOT_FINITE, UNCLASSIFIED
from mi_toolkit.heads.report import HeadReport, bos_note
from mi_toolkit.heads.summary import NOT_APPLICABLE, TOO_FEW

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mi_toolkit.core.head import Head
    from mi_toolkit.heads.control import UntrainedControl


HEADS_SHOWN = 8
_BOS = {
    "own": "with BOS",
    "stand-in": "a document separator for a BOS",
    "none": "no BOS",
    "in the text": "BOS in the text",
}


@dataclass(frozen=True, eq=False, repr=False)
class ReportView:
    """A head report that a notebook draws and a file keeps."""

    report: HeadReport
    """What is shown."""

    def section(self) -> Section:
        """The view's part of a page."""
        maps = maps_of(self.report)
        return Section(
            title=self._title(),
            caption=" ".join(filter(None, [_reading(self.report), bos_note(self.report)])),
            body=(
                f"{_label_table(self.report)}"
                "<p>A label is a hypothesis: it says where a head looks on these texts, and where "
                "a figure of copying stands next to it, whether the head raises or lowers the "
                "tokens that it looks at, in standard deviations over the vocabulary. Ablating the "
                "head tests it.</p>"
                f'<h3>Head by head</h3><div class="figures">{"".join(map(map_figure, maps))}</div>'
                f'<p class="facts">{html.escape(_facts(self.report))}</p>'
            ),
            height=_height(self.report, len(maps)),
        )

    def save_html(self, path: str | os.PathLike[str]) -> None:
        """Write a page of this view alone; `Page` puts several views on one."""
        Page([self]).save_html(path)

    def save_png(self, path: str | os.PathLike[str]) -> None:
        """Write all maps as one picture."""
        figures.save_figure(figures.report_grid(self.report), path)

    def _title(self) -> str:
        n_layers, n_heads = self.report.scope.shape
        return f"Heads of {self.report.provenance.model}: {n_layers} layers × {n_heads} heads"

    def __repr__(self) -> str:
        return f"ReportView of {self.report!r}"

    def _repr_html_(self) -> str:
        return Page([self])._repr_html_()


def view_report(report: HeadReport) -> ReportView:
    """A report to look at: its labels with their intervals, and a map of each behaviour.

    Example:
        >>> import mi_toolkit as mi
        >>> report = mi.classify_heads(mi.load_model("toy-gpt2"), "one two three one two three")
        >>> mi.view(report).save_html("report.html")  # doctest: +SKIP
    """
    return ReportView(report)


def _reading(report: HeadReport) -> str:
    bar = f"{report.min_lift:g}"
    return (
        "Lift is the attention on a behaviour's target tokens beyond what uniform attention over "
        "the same tokens would put there: 0 is chance, 1 is perfect. Brackets hold its 95% interval"
        f"{_speaks_of(report)}. A head carries a label where its lift exceeds {bar} beyond doubt"
        f"{_doubt(report)}; a dashed frame is borderline, for more texts to decide. Positional, "
        "diffuse and local or global are judged by a value and bars of their own."
    )


def _speaks_of(report: HeadReport) -> str:
    if "queries" in report.interval_over.values():
        return (
            ", which on one or two texts speaks of other places of this very prompt, not of other "
            "texts"
        )
    return ", which speaks of other texts like these"


def _doubt(report: HeadReport) -> str:
    if report.fdr is None:
        return " (its interval lies above)"
    return f", with at most {report.fdr:.0%} of all labels false in expectation"


def _facts(report: HeadReport) -> str:
    provenance = report.provenance
    revision = f", revision {provenance.revision}" if provenance.revision else ""
    stimuli = [
        f"{name} ({len(batch)} × {int(batch.lengths.max())} tokens, "
        f"{_BOS.get(provenance.bos[name], provenance.bos[name])})"
        for name, batch in report.tokens.items()
    ]
    made = sorted(set(report.interval.values()) - {NOT_APPLICABLE, TOO_FEW})
    intervals = f" Intervals: {', '.join(made)}." if made else ""
    versions = ", ".join(f"{name} {version}" for name, version in provenance.versions.items())
    return (
        f"{provenance.model} in {provenance.dtype} as {provenance.backend}{revision}. Measured on "
        f"{' and '.join(stimuli)}, seed {provenance.seed}."
        f"{intervals} {versions}."
    )


def _height(report: HeadReport, n_maps: int) -> int:
    """About how tall the page is at a notebook's width: two maps side by side where they fit."""
    n_layers, n_heads = report.scope.shape
    rows = -(-n_maps // max(1, 800 // (n_heads * 34 + 60)))
    return 420 + 60 * len(report.listed) + rows * (n_layers * 24 + 110)


def _label_table(report: HeadReport) -> str:
    lines = dict(report.summary())
    rows = ["<tr><th>label</th><th>heads</th><th>chance</th></tr>"]
    for name in report.listed:
        heads = report.heads(name) if name in report.label_names else []
        carried = _heads_cell(report, name, heads) if heads else html.escape(lines[name])
        behaviour = report.behaviour_of(name)
        meaning = html.escape(f"{report.meaning(name)}; on {report.stimulus[behaviour]}")
        rows.append(
            f"<tr><th>{html.escape(name)}<small>{meaning}</small></th><td>{carried}</td>"
            f"<td>{_chance(report, behaviour)}</td></tr>"
        )
    rows.extend(
        f'<tr><th>{name}</th><td colspan="2">{html.escape(lines[name])}</td></tr>'
        for name in ("scope", UNCLASSIFIED, NOT_FINITE, "borderline", "intervals")
        if name in lines
    )
    return f'<div class="wide"><table>{"".join(rows)}</table></div>'


def _heads_cell(report: HeadReport, name: str, heads: list[Head]) -> str:
    entries = [
        f'<span class="head"><b>{head}</b> {figure_text(report, report.behaviour_of(name), head)}'
        f"{html.escape(report.copying_text(name, head))}</span>"
        for head in heads
    ]
    first, rest = "".join(entries[:HEADS_SHOWN]), "".join(entries[HEADS_SHOWN:])
    n_more = len(entries) - HEADS_SHOWN
    return f"{first}<details><summary>{n_more} more</summary>{rest}</details>" if rest else first


def _chance(report: HeadReport, name: str) -> str:
    """What uniform attention would score, over the layers (whose windows may differ)."""
    if not report.facts[name].has_chance or not report.applicable[name]:
        return "\N{EN DASH}"
    null = report.null[report.index(name)]
    low, high = (
        f"{float(end):.2f}" for end in (null[~null.isnan()].min(), null[~null.isnan()].max())
    )
    return low if low == high else f"{low} to {high}"


def view_untrained(control: UntrainedControl, report: HeadReport | None = None) -> PictureView:
    """The strongest heads of untrained twins, next to the labelled heads of the model.

    Args:
        control: of `untrained_control`.
        report: of the model, measured as the twins were; None for the twins alone.

    Raises:
        ReportError: the report is of another model, or was measured on other texts.

    Example:
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> text = "one two three one two three"
        >>> mi.view(mi.untrained_control(model, text, n=2))
        PictureView of 2 untrained twins of toy-gpt2
    """
    if report is not None:
        control.check(report.provenance, report.stimulus)

    def draw() -> Figure:

        return figures.sheet_of(figures.untrained_figure(control, report))

    table = control.text_table()
    return PictureView(
        title=f"{control.n} untrained twins of {control.provenance.model}",
        caption=(
            "Models of the same config with fresh weights, measured by the same protocol. Grey: "
            "the strongest head of each. Diamonds: the model's labelled heads. A label whose heads "
            "lie among the grey dots is no sign of training."
        ),
        draw=draw,
        body=wide_table(table.header, table.rows),
    )
