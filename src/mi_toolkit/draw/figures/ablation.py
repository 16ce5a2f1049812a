"""Ablations and sweeps of lengths: maps of effects, and curves."""

from __future__ import annotations

import math
import textwrap

import torch
from jaxtyping import Bool
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from mi_toolkit.compare.lengths import LengthSweep
from mi_toolkit.core.errors import unknown_name
from mi_toolkit.core.head import Head
from mi_toolkit.draw.ablation import strip_of
from mi_toolkit.draw.figures.grids import (
    CELL_HEIGHT,
    CELL_WIDTH,
    LEFT,
    RIGHT,
    TOP,
    draw_values,
    panel_size,
)
from mi_toolkit.draw.figures.style import (
    Sheet,
    axes_at,
    background,
    draw_strip,
    in_house_style,
    muted_text,
    new_axes,
    title,
    write,
)
from mi_toolkit.draw.primitives import LINES, UNLABELLED, visible
from mi_toolkit.heads.labels import LOCAL_FROM
from mi_toolkit.interventions.effect import FIGURES, AblationEffect
from mi_toolkit.interventions.sweep import AblationSweep

SWEPT = {
    "log_prob": "log-probability of the target (nats)",
    "rank": "rank of the target",
    "kl": "KL from the clean prediction (nats)",
    "loss": "loss of the prompt (nats)",
}
HEAD = 0.5
ABREAST = 2
"""Maps side by side: in a column of text, four are too small to read."""

BEFORE, AFTER, RANDOM = "#8c8c8c", LINES[1], "#777777"


@in_house_style
def sweep_maps(sweep: AblationSweep) -> Figure:
    """What each head's ablation changes: a map for each figure, layers downwards, heads across."""
    n_layers, n_heads = sweep.log_prob.shape
    width, height = panel_size(n_layers, n_heads)
    n_rows = -(-len(SWEPT) // ABREAST)
    figure = Sheet(figsize=(max(ABREAST * width, 6.5), HEAD + n_rows * height))
    title(figure, f"{sweep.title()}: change for {visible(sweep.clean.text)}")
    for place, name in enumerate(SWEPT):
        row, column = divmod(place, ABREAST)
        corner = (column * width + LEFT, HEAD + row * height + TOP)
        sweep_map(
            sweep, name, axes_at(figure, *corner, n_heads * CELL_WIDTH, n_layers * CELL_HEIGHT)
        )
    return figure


@in_house_style
def sweep_map(sweep: AblationSweep, figure: str = "log_prob", ax: Axes | None = None) -> Axes:
    """One figure of a sweep: what each head's ablation changes it by.

    Args:
        sweep: of `ablation_sweep`.
        figure: `log_prob`, `rank`, `kl` or `loss`.
        ax: axes to draw in; None for a figure of its own, which is `ax.figure`.

    Raises:
        UnknownNameError: any other figure.
    """
    if figure not in SWEPT:
        raise unknown_name("figure of a sweep", figure, SWEPT)
    n_layers, n_heads = sweep.log_prob.shape
    if ax is None:
        ax = new_axes(n_heads * CELL_WIDTH, n_layers * CELL_HEIGHT, right=RIGHT)
    draw_values(
        ax,
        sweep[figure],
        title=SWEPT[figure],
        rows=[str(layer) for layer in range(n_layers)],
        columns=[str(head) for head in range(n_heads)],
        across="head",
    )
    return ax


@in_house_style
def effect_picture(effect: AblationEffect) -> Figure:
    """The most probable tokens before and after, the random sets, and the divergence by token."""
    tokens = _shown_tokens(effect)
    n_positions = len(effect.texts)
    bars, strips = 0.26 * len(tokens), 0.5 * len(effect.measured)
    upper = max(bars, strips)
    width = max(9.6, 0.8 + 0.3 * n_positions)
    height = HEAD + 0.45 + upper + 0.95 + 0.9 + 0.85
    figure = Sheet(figsize=(width, height))
    title(figure, effect.title())
    _draw_tokens(axes_at(figure, 1.35, HEAD + 0.45, 2.9, bars), effect, tokens)
    for place, name in enumerate(effect.measured):
        ax = axes_at(figure, 6.6, HEAD + 0.5 + 0.5 * place, 2.7, 0.2)
        _draw_strip(ax, effect, name)
    below = HEAD + 0.45 + upper + 0.95
    _draw_divergence(axes_at(figure, 0.7, below, width - 0.9, 0.9), effect)
    return figure


def _shown_tokens(effect: AblationEffect) -> dict[int, tuple[str, float | None, float | None]]:
    """Tokens with their probabilities before and after, where they were among the most probable."""
    before = {each.token: each for each in (*effect.top_before, effect.before)}
    after = {each.token: each for each in (*effect.top_after, effect.after)}
    texts = {token: each.text for token, each in {**after, **before}.items()}
    return {
        token: (
            text,
            before[token].probability if token in before else None,
            after[token].probability if token in after else None,
        )
        for token, text in texts.items()
    }


def _draw_tokens(
    ax: Axes,
    effect: AblationEffect,
    tokens: dict[int, tuple[str, float | None, float | None]],
) -> None:
    ordered = sorted(tokens.items(), key=lambda item: -max(item[1][1] or 0, item[1][2] or 0))
    for row, (_, (_, before, after)) in enumerate(ordered):
        for offset, probability, colour in ((-0.2, before, BEFORE), (0.2, after, AFTER)):
            if probability is None:
                ax.text(0, row + offset, " \N{EN DASH}", fontsize=6, va="center", color=colour)
            else:
                ax.barh(row + offset, probability, height=0.36, color=colour, linewidth=0)
    names = [visible(text) for _, (text, _, _) in ordered]
    ax.set_yticks(range(len(ordered)), names, fontsize=8, parse_math=False)
    for label, (token, _) in zip(ax.get_yticklabels(), ordered, strict=True):
        label.set_fontweight("bold" if token == effect.before.token else "normal")
    ax.set_ylim(len(ordered) - 0.4, -0.6)
    ax.set_xlim(0, None)
    ax.set_title("next token: clean (grey), ablated", fontsize=9, loc="left")
    ax.set_xlabel("probability; the target in bold, \N{EN DASH}: not among the first", fontsize=8)
    _quiet(ax)


def _draw_strip(ax: Axes, effect: AblationEffect, name: str) -> None:
    strip = strip_of(effect, name)
    ax.axvline(0, color=muted_text(), linewidth=0.8)
    draw_strip(ax, 0, strip, dots=RANDOM)
    ax.set_yticks([0], [FIGURES[name]], fontsize=7)
    low, high = strip.span
    room = 0.06 * (high - low) or 1.0
    ax.set_xlim(low - room, high + room)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=name == "rank"))
    if name == next(iter(FIGURES)):
        text = "change; grey: random sets of the same size" if strip.others else "change"
        ax.set_title(text, fontsize=9, loc="left")
    _quiet(ax)


def _draw_divergence(ax: Axes, effect: AblationEffect) -> None:
    ax.bar(range(len(effect.kl)), effect.kl.tolist(), color=AFTER, width=0.8)
    ax.set_xticks(
        range(len(effect.texts)),
        [visible(text) for text in effect.texts],
        rotation=60,
        ha="right",
        rotation_mode="anchor",
        fontsize=7,
        parse_math=False,
    )
    ax.set_xlim(-0.6, len(effect.texts) - 0.4)
    ax.set_title("KL of the prediction after each token (nats)", fontsize=9, loc="left")
    _quiet(ax)


def _quiet(ax: Axes) -> None:
    ax.tick_params(length=0, labelsize=7)
    ax.spines[["top", "right", "left"]].set_visible(False)


WIDTH, HEIGHT = 2.35, 1.75
GAP_ACROSS, GAP_DOWN = 0.5, 0.75
SWEEP_LEFT, SWEEP_TOP, COLUMNS = 0.75, 0.95, 4
NAMED_HEADS = 5
"""Labelled heads of a panel that are drawn in colour, the strongest first."""

SWEEP_READING = (
    "lift (0 chance, 1 perfect) or value by tokens of a sequence; band: 95% interval; filled: "
    f"labelled at that length; in colour: the {NAMED_HEADS} strongest of those; grey: all others"
)
LINE, SIGNS_PER_INCH = 0.16, 14
"""Inches of a line of small print, and how many signs of it an inch has room for."""


@in_house_style
def sweep_grid(sweep: LengthSweep) -> Figure:
    """All behaviours of a sweep, the stimuli one below the other, length along each panel.

    A labelled head has a colour, its interval as a band, and a filled dot wherever the label holds;
    all others are grey. 0 is chance for mask behaviours.
    """
    behaviours = [name for name in sweep.behaviours if _shown(sweep, name)]
    n_stimuli, n_columns = len(sweep.stimuli), min(COLUMNS, max(1, len(behaviours)))
    n_rows = n_stimuli * -(-len(behaviours) // n_columns)
    wide = SWEEP_LEFT + n_columns * (WIDTH + GAP_ACROSS)
    lines = textwrap.wrap(SWEEP_READING, int(wide * SIGNS_PER_INCH))
    top = SWEEP_TOP + LINE * (len(lines) - 1)
    figure = Sheet(figsize=(wide, top + n_rows * (HEIGHT + GAP_DOWN)))
    title(figure, f"Heads of {sweep.model} by length")
    for place, line in enumerate(lines):
        write(figure, 0.12, 0.52 + LINE * place, line, fontsize=8, color=muted_text())
    for index, behaviour in enumerate(behaviours):
        block, column = divmod(index, n_columns)
        for place, stimulus in enumerate(sweep.stimuli):
            row = block * n_stimuli + place
            x, y = SWEEP_LEFT + column * (WIDTH + GAP_ACROSS), top + row * (HEIGHT + GAP_DOWN)
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
    ax.axhline(0, color=muted_text(), linewidth=0.8)
    if facts.carries_label or behaviour == "locality":
        bar = sweep.min_lift if facts.min_label is None else facts.min_label
        bar = LOCAL_FROM if behaviour == "locality" else bar
        ax.axhline(bar, color="#999999", linewidth=0.8, linestyle=(0, (3, 2)))


def _draw(ax: Axes, sweep: LengthSweep, behaviour: str, stimulus: str) -> None:
    figures = sweep.figures(behaviour, stimulus)
    if not figures.isfinite().any():
        _say(ax, "nothing here could show it")
        return
    lowest = float(figures.nan_to_num(0.0).min())
    ax.set_ylim(bottom=min(ax.get_ylim()[0], lowest - 0.05))
    held = _held(sweep, behaviour, stimulus)
    others = [head for head in _heads(figures) if head not in held]
    for head in others:
        ax.plot(sweep.lengths, figures[:, head.layer, head.head], color=UNLABELLED, linewidth=0.6)
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
            frameon=True,  # where it has to lie over lines, it is read all the same
            framealpha=0.85,
            edgecolor="none",
            facecolor=background(),
            borderpad=0.2,
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
        color=muted_text(),
        backgroundcolor=background(),
    )
