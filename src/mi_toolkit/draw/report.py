"""A head report as a page: what each label rests on, which heads carry it, and a map of each."""

from __future__ import annotations

from dataclasses import replace

from mi_toolkit.core.display import counted
from mi_toolkit.draw import figures
from mi_toolkit.draw.head_maps import figure_text, map_figure, maps_of
from mi_toolkit.draw.markup import render, tables_html
from mi_toolkit.draw.page import ResultView
from mi_toolkit.draw.primitives import made_text
from mi_toolkit.heads.control import UntrainedControl
from mi_toolkit.heads.labels import NOT_FINITE, UNCLASSIFIED
from mi_toolkit.heads.report import ABOUT_TEXTS, HeadReport
from mi_toolkit.heads.summary import NOT_APPLICABLE, TOO_FEW

HEADS_SHOWN = 8
_BOS = {
    "own": "with BOS",
    "stand-in": "a document separator for a BOS",
    "none": "no BOS",
    "in the text": "BOS in the text",
}


def view_report(report: HeadReport) -> ResultView:
    """A report to look at: its labels with their intervals, and a map of each behaviour.

    Example:
        >>> import mi_toolkit as mi
        >>> report = mi.classify_heads(mi.load_model("toy-gpt2"), "one two three one two three")
        >>> mi.view(report).save_html("report.html")  # doctest: +SKIP
    """
    n_layers, n_heads = report.scope.shape
    maps = maps_of(report)
    lines = dict(report.summary())
    closing = ("scope", UNCLASSIFIED, NOT_FINITE, *ABOUT_TEXTS)
    labels = [_label(report, name, lines[name]) for name in report.listed]
    return ResultView(
        title=f"Heads of {report.provenance.model}: {n_layers} layers × {n_heads} heads",
        caption=_reading(report),
        body=lambda: render(
            "report",
            labels=labels,
            copies=any(
                report.copying_text(name, head)
                for name in report.label_names
                for head in report.heads(name)
            ),
            n_shown=HEADS_SHOWN,
            closing=[(name, lines[name]) for name in closing if name in lines],
            maps=list(map(map_figure, maps)),
            facts=_facts(report),
        ),
        draw=lambda: figures.report_grid(report),
        height=_height(report, len(maps)),
    )


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
    made = report.provenance
    stimuli = [
        f"{name} ({len(batch)} × {int(batch.lengths.max())} tokens, "
        f"{_BOS.get(made.bos[name], made.bos[name])})"
        for name, batch in report.tokens.items()
    ]
    over = sorted(set(report.interval.values()) - {NOT_APPLICABLE, TOO_FEW})
    intervals = f" Intervals: {', '.join(over)}." if over else ""
    return made_text(
        made,
        f", revision {made.revision}" if made.revision else "",
        further=f"Measured on {' and '.join(stimuli)}, seed {made.seed}.{intervals}",
        says_bos=False,  # a line of the table does
    )


def _height(report: HeadReport, n_maps: int) -> int:
    """About how tall the page is at a notebook's width: two maps side by side where they fit."""
    n_layers, n_heads = report.scope.shape
    rows = -(-n_maps // max(1, 800 // (n_heads * 34 + 60)))
    return 420 + 60 * len(report.listed) + rows * (n_layers * 24 + 110)


def _label(report: HeadReport, name: str, line: str) -> tuple[str, str, list[list[str]], str, str]:
    """A label, its meaning, its heads with their figures, its line of the summary, its chance."""
    behaviour = report.behaviour_of(name)
    heads = [
        [str(head), figure_text(report, behaviour, head) + report.copying_text(name, head)]
        for head in (report.heads(name) if name in report.label_names else [])
    ]
    meaning = f"{report.meaning(name)}; on {report.stimulus[behaviour]}"
    return name, meaning, heads, line, _chance(report, behaviour)


def _chance(report: HeadReport, name: str) -> str:
    """What uniform attention would score, over the layers (whose windows may differ)."""
    if not report.facts[name].has_chance or not report.applicable[name]:
        return "\N{EN DASH}"
    null = report.null[report.index(name)]
    low, high = (
        f"{float(end):.2f}" for end in (null[~null.isnan()].min(), null[~null.isnan()].max())
    )
    return low if low == high else f"{low} to {high}"


def view_untrained(control: UntrainedControl, report: HeadReport | None = None) -> ResultView:
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
        View of 2 untrained twins of toy-gpt2
    """
    if report is not None:
        report = report.against(control)

    return ResultView(
        title=f"{counted(control.n, 'untrained twin')} of {control.provenance.model}",
        caption=(
            "Models of the same config with fresh weights, measured by the same protocol. Grey: "
            "the strongest head of each. Diamonds: the model's labelled heads. A label whose heads "
            "lie among the grey dots is no sign of training."
        ),
        draw=lambda: figures.sheet_of(figures.untrained_figure(control, report)),
        body=lambda: tables_html(replace(control.text_table(), title="")),
    )
