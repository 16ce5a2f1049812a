"""Confirmations, untrained twins and verifications: each figure against what it is held to."""

from __future__ import annotations

from textwrap import shorten

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mi_toolkit.core.display import counted
from mi_toolkit.draw.confirmation import COLOURS, strip_of
from mi_toolkit.draw.figures.style import (
    Sheet,
    axes_at,
    draw_strip,
    in_house_style,
    ink,
    line,
    muted_text,
    new_axes,
    title,
    write,
)
from mi_toolkit.draw.primitives import LABELS, OTHER_LABEL, VERDICTS, DotStrip, span_of
from mi_toolkit.heads.control import UntrainedControl
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.interventions.confirm.confirmation import Confirmation, HypothesisTest
from mi_toolkit.verification.verify import HEADER, Verification

ROW, TOP, BETWEEN, FOOT = 0.3, 0.85, 0.62, 0.1


LEFT, WIDTH, RIGHT = 1.9, 4.4, 4.6


BAND = (0.025, 0.975)


@in_house_style
def confirmation_figure(confirmation: Confirmation) -> Figure:
    """What ablation changed, label by label: the labelled heads' change among those of others.

    A row is a trial, and under a set one for each of its layers: a dot for each other set (or
    head), a band over the middle 95% of them, and the labelled heads' change with its 95%
    interval, coloured by verdict. Labels have scales of their own.
    """
    labels = list(dict.fromkeys(trial.label for trial in confirmation.trials))
    panels = [
        (label, [row for trial in confirmation[label] for row in _rows(trial)]) for label in labels
    ]
    height = TOP + sum(len(rows) * ROW + BETWEEN for _, rows in panels) + FOOT
    figure = Sheet(figsize=(LEFT + WIDTH + RIGHT, height))
    title(figure, confirmation.title())
    y = TOP
    for label, rows in panels:
        ax = axes_at(figure, LEFT, y, WIDTH, len(rows) * ROW)
        stimulus = confirmation[label][0].stimulus
        ax.set_title(f"{label} on {stimulus}", fontsize=9, loc="left", parse_math=False)
        _draw(ax, rows)
        y += len(rows) * ROW + BETWEEN
    figure.text(
        LEFT / figure.get_figwidth(),
        0.12 / height,
        "change of the loss in nats; grey: other sets of heads of the same layers"
        if confirmation.by == "label"
        else "change of the loss in nats; grey: single heads without the label",
        fontsize=8,
    )
    return figure


Row = tuple[str, DotStrip, str]
"""A name, a change among those of other heads, and what it comes to."""


def _rows(trial: HypothesisTest) -> list[Row]:
    few = len(trial.heads) <= 2
    name = " ".join(map(str, trial.heads)) if few else f"{len(trial.heads)} heads"
    whole = strip_of(trial.effect, VERDICTS[trial.verdict])
    layers = trial.explanation.layers if trial.explanation else ()
    return [
        (name, whole, f"{trial.verdict}: {trial.reason}"),
        *(
            (
                "only " + " ".join(map(str, part.heads)),
                strip_of(part, muted_text()),
                f"rank {part.rank} of {len(part.others) + 1} in its layer",
            )
            for part in layers
        ),
    ]


def _draw(ax: Axes, rows: list[Row]) -> None:
    ax.axvline(0, color=muted_text(), linewidth=0.8)
    for y, (_, strip, note) in enumerate(rows):
        if strip.others:
            low, high = torch.tensor(strip.others).quantile(torch.tensor(BAND)).tolist()
            ax.barh(y, high - low, left=low, height=0.62, color="#dddddd", linewidth=0)
        draw_strip(ax, y, strip, dots="#777777")
        at = ax.get_yaxis_transform()
        ax.text(1.02, y, note, transform=at, va="center", fontsize=7.5, color=strip.colour)
    ax.set_yticks(range(len(rows)), [name for name, *_ in rows], fontsize=8)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    low, high = span_of(strip for _, strip, _ in rows)
    room = 0.05 * (high - low) or 1e-3
    ax.set_xlim(low - room, high + room)
    ax.tick_params(axis="x", labelsize=7, length=2)
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)


TWINS = "#999999"


@in_house_style
def untrained_figure(
    control: UntrainedControl, report: HeadReport | None = None, ax: Axes | None = None
) -> Axes:
    """How high heads score without training: a dot for each twin, a diamond for a labelled head.

    Behaviours that nothing could show are left out. At the right, of each behaviour: how many of
    the labelled heads an untrained twin reaches.

    Args:
        control: of `untrained_control`.
        report: of the model; None for the twins alone.
        ax: axes to draw in; None for a figure of its own, which is `ax.figure`.
    """
    shown = [name for name in control.behaviours if not control[name].isnan().all()]
    if ax is None:
        ax = new_axes(3.6, 0.32 * max(len(shown), 1), left=1.45, right=1.5)
    for row, name in enumerate(shown):
        ax.axhline(row, color=line(), linewidth=0.8, zorder=0)
        twins = control[name].tolist()
        ax.plot(twins, [row] * len(twins), "o", color=TWINS, markersize=5, alpha=0.6, mew=0)
        if report is not None and name in report.behaviours:
            _draw_labelled(ax, row, name, control, report)
    ax.axvline(0, color=line(), linewidth=0.8, zorder=0)
    ax.set_yticks(range(len(shown)), shown, parse_math=False)
    ax.set(ylim=(len(shown) - 0.5, -0.5), xlabel="lift over chance, or value")
    low, high = ax.get_xlim()
    ax.set_xlim(min(low, -0.05), max(high, 1.05))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    title = f"{control.provenance.model}: {counted(control.n, 'untrained twin')}"
    ax.set_title(title, parse_math=False)
    return ax


def _draw_labelled(
    ax: Axes, row: int, name: str, control: UntrainedControl, report: HeadReport
) -> None:
    """The heads of every label that rests on a behaviour, and how many of them twins reach."""
    heads = {
        head: label
        for label in report.label_names
        if report.behaviour_of(label) == name
        for head in report.heads(label)
    }
    figures, shares = report[name], control.reached(name, report[name])
    for head, label in heads.items():
        colour = LABELS.get(label, OTHER_LABEL)
        colour = ink() if colour == OTHER_LABEL else colour
        ax.plot([float(figures[head])], [row], "D", color=colour, markersize=5, mew=0)
    if heads:
        n_reached = sum(float(shares[head]) > 0 for head in heads)
        ax.annotate(
            f"{n_reached} of {len(heads)} reached",
            (1.02, row),
            xycoords=ax.get_yaxis_transform(),
            va="center",
            fontsize=8,
            color=muted_text(),
        )


CHECKS_WIDTH, CHECKS_TOP, CHECKS_ROW, CHECKS_FOOT = 11.5, 0.65, 0.25, 0.15


COLUMNS = (0.15, 1.9, 2.7, 3.7, 4.85)
"""Left sides of the columns, in inches."""


LONGEST = 110


@in_house_style
def verification_figure(found: Verification) -> Figure:
    """One row to a check; below them what the model says."""
    said = [
        f"{each.prompt!r} → {each.text!r}  (loss {each.loss:.2f}, repetition {each.repetition:.0%})"
        for each in found.completions
    ]
    height = CHECKS_TOP + CHECKS_ROW * (len(found.outcomes) + len(said) + 1.5) + CHECKS_FOOT
    figure = Sheet(figsize=(CHECKS_WIDTH, height))
    title(figure, found.title())
    y = CHECKS_TOP
    for cells in (HEADER, *found.cells()):
        for x, cell, name in zip(COLUMNS, cells, HEADER, strict=True):
            is_verdict = name == "verdict" and cells is not HEADER
            weight = "bold" if cells is HEADER or is_verdict else "normal"
            colour = COLOURS[found.outcomes[cells[0]].verdict] if is_verdict else ink()
            cut = shorten(cell, LONGEST, placeholder=" …")
            write(figure, x, y, cut, fontsize=8, va="center", color=colour, weight=weight)
        y += CHECKS_ROW
    y += CHECKS_ROW / 2
    for words in said:
        cut = shorten(words, 150, placeholder=" …")
        write(figure, COLUMNS[0], y, cut, fontsize=8, va="center")
        y += CHECKS_ROW
    return figure
