"""A length sweep: each head's figure by length, one panel per behaviour and stimulus."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from mi_toolkit.comparison.sweep import LengthSweep
from mi_toolkit.heads.head import Head
from mi_toolkit.heads.labels import LOCAL_FROM
from mi_toolkit.views.colours import LINES
from mi_toolkit.views.figures.sheet import axes_at, new_axes, title
from mi_toolkit.views.figures.style import in_house_style, paper_colour, soft_ink

WIDTH, HEIGHT = 2.35, 1.75
GAP_ACROSS, GAP_DOWN = 0.5, 0.75
LEFT, TOP, COLUMNS = 0.75, 0.95, 4
NAMED_HEADS = 5
"""Labelled heads of a panel that are drawn in colour, the strongest first."""


@in_house_style
def sweep_grid(sweep: LengthSweep) -> Figure:
    """All behaviours of a sweep, the stimuli one below the other, length along each panel.

    A labelled head has a colour, its interval as a band, and a filled dot wherever the label holds;
    all others are grey. 0 is chance for mask behaviours.
    """
    behaviours = [name for name in sweep.behaviours if _shown(sweep, name)]
    n_stimuli, n_columns = len(sweep.stimuli), min(COLUMNS, max(1, len(behaviours)))
    n_rows = n_stimuli * -(-len(behaviours) // n_columns)
    figure = Figure(
        figsize=(
            LEFT + n_columns * (WIDTH + GAP_ACROSS),
            TOP + n_rows * (HEIGHT + GAP_DOWN),
        )
    )
    title(figure, f"Heads of {sweep.model} by length")
    figure.text(
        0.12 / figure.get_figwidth(),
        1 - 0.52 / figure.get_figheight(),
        "lift (0 chance, 1 perfect) or value by tokens of a sequence; band: 95% interval; "
        "filled: labelled at that length; grey: heads never labelled",
        fontsize=8,
        color=soft_ink(),
    )
    for index, behaviour in enumerate(behaviours):
        block, column = divmod(index, n_columns)
        for place, stimulus in enumerate(sweep.stimuli):
            row = block * n_stimuli + place
            x, y = LEFT + column * (WIDTH + GAP_ACROSS), TOP + row * (HEIGHT + GAP_DOWN)
            ax = axes_at(figure, x, y, WIDTH, HEIGHT)
            _frame(ax, sweep, behaviour)
            if column == 0:
                ax.set_ylabel(stimulus, fontsize=9, weight="bold")
            if sweep.measured(behaviour, stimulus):
                _draw(ax, sweep, behaviour, stimulus)
            else:
                _say(ax, "not measured here:\nit would mislead")
    return figure


@in_house_style
def length_curve(
    sweep: LengthSweep, behaviour: str, stimulus: str | None = None, ax: Axes | None = None
) -> Axes:
    """One panel of a sweep: each head's figure for one behaviour, by length, on one stimulus.

    Args:
        sweep: of `length_sweep`.
        behaviour: one of the sweep's.
        stimulus: one of the sweep's; None for the first on which the behaviour was measured.
        ax: axes to draw in; None for a figure of its own, which is `ax.figure`.

    Raises:
        UnknownNameError: the sweep does not have the behaviour, or not on that stimulus.
    """
    sweep.facts(behaviour)
    if stimulus is None:
        stimulus = next(name for name in sweep.stimuli if sweep.measured(behaviour, name))
    sweep.report(stimulus, sweep.lengths[0]).index(behaviour)
    if ax is None:
        ax = new_axes(WIDTH, HEIGHT)
    _frame(ax, sweep, behaviour)
    ax.set_ylabel(stimulus)
    _draw(ax, sweep, behaviour, stimulus)
    return ax


def _shown(sweep: LengthSweep, behaviour: str) -> bool:
    return any(
        report.applicable[behaviour]
        for report in sweep.reports.values()
        if behaviour in report.behaviours
    )


def _frame(ax: Axes, sweep: LengthSweep, behaviour: str) -> None:
    facts = sweep.facts(behaviour)
    ax.set_title(f"{behaviour} ({'lift' if facts.has_chance else 'value'})", fontsize=9, loc="left")
    ax.set_xscale("log", base=2)
    ax.set_xlim(sweep.lengths[0] / 1.15, sweep.lengths[-1] * 1.15)
    ax.set_xticks(sweep.lengths, map(str, sweep.lengths), minor=False)
    ax.set_xticks([], minor=True)
    ax.set_ylim(-1.05 if behaviour == "locality" else -0.12, 1.05)
    ax.tick_params(labelsize=7, length=2)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_xlabel("tokens", fontsize=7, labelpad=1)
    ax.axhline(0, color=soft_ink(), linewidth=0.8)
    if facts.carries_label or behaviour == "locality":
        bar = sweep.min_lift if facts.min_label is None else facts.min_label
        bar = LOCAL_FROM if behaviour == "locality" else bar
        ax.axhline(bar, color="#999999", linewidth=0.8, linestyle=(0, (3, 2)))


def _draw(ax: Axes, sweep: LengthSweep, behaviour: str, stimulus: str) -> None:
    figures = sweep.figures(behaviour, stimulus)
    if not figures.isfinite().any():
        _say(ax, "nothing here could show it")
        return
    held = _held(sweep, behaviour, stimulus)
    others = [head for head in _heads(figures) if head not in held]
    for head in others:
        ax.plot(sweep.lengths, figures[:, head.layer, head.head], color="#c4c4c4", linewidth=0.7)
    for rank, (head, at) in enumerate(held.items()):
        named = rank < NAMED_HEADS
        colour = LINES[rank % len(LINES)] if named else "#8c8c8c"
        low, high = (
            [
                float(getattr(report, end)[report.index(behaviour)][head])
                for report in (sweep.report(stimulus, length) for length in sweep.lengths)
            ]
            for end in ("ci_low", "ci_high")
        )
        values = figures[:, head.layer, head.head]
        if named:
            ax.fill_between(sweep.lengths, low, high, color=colour, alpha=0.2, linewidth=0)
        ax.plot(
            sweep.lengths,
            values,
            color=colour,
            linewidth=1.3 if named else 0.9,
            label=str(head) if named else None,
        )
        ax.plot(
            [length for length, holds in zip(sweep.lengths, at, strict=True) if holds],
            [float(v) for v, holds in zip(values, at, strict=True) if holds],
            "o",
            markersize=3.2 if named else 2,
            color=colour,
        )
    if held:
        more = f"and {len(held) - NAMED_HEADS} more" if len(held) > NAMED_HEADS else None
        ax.legend(
            fontsize=6,
            frameon=False,
            loc="best",
            handlelength=1.2,
            labelspacing=0.2,
            title=more,
            title_fontsize=6,
        )


def _held(sweep: LengthSweep, behaviour: str, stimulus: str) -> dict[Head, list[bool]]:
    """The heads labelled (or local) at any length, the strongest first, and at which lengths."""
    report = sweep.report(stimulus, sweep.lengths[0])
    if behaviour == "locality":
        local = report.scope_names.index("local")
        at_length = [sweep.report(stimulus, length).scope == local for length in sweep.lengths]
        return _strongest_first(sweep, behaviour, stimulus, torch.stack(at_length))
    labels = [label for label in report.label_names if report.behaviour_of(label) == behaviour]
    holds = torch.zeros(sweep.figures(behaviour, stimulus).shape, dtype=torch.bool)
    for label in labels:
        holds |= sweep.holds(label, stimulus)
    return _strongest_first(sweep, behaviour, stimulus, holds)


def _strongest_first(
    sweep: LengthSweep, behaviour: str, stimulus: str, holds: Bool[Tensor, "length layer head"]
) -> dict[Head, list[bool]]:
    best = sweep.figures(behaviour, stimulus).nan_to_num(-math.inf).amax(dim=0)
    found = [Head(*index) for index in holds.any(dim=0).nonzero().tolist()]
    found.sort(key=lambda head: -float(best[head]))
    return {head: holds[:, head.layer, head.head].tolist() for head in found}


def _heads(figures: Tensor) -> list[Head]:
    n_layers, n_heads = figures.shape[1:]
    return [Head(layer, head) for layer in range(n_layers) for head in range(n_heads)]


def _say(ax: Axes, text: str) -> None:
    ax.text(
        0.5,
        0.5,
        text,
        transform=ax.transAxes,
        ha="center",
        va="center",
        fontsize=8,
        color=soft_ink(),
        backgroundcolor=paper_colour(),
    )
