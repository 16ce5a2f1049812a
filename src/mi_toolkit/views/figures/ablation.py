"""Ablations: every head's effect as maps, and one effect with its random sets and tokens."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mi_toolkit.errors import unknown_name
from mi_toolkit.interventions.effects import AblationEffect, AblationSweep
from mi_toolkit.interventions.effects.result import FIGURES
from mi_toolkit.views.colours import LINES
from mi_toolkit.views.figures.sheet import axes_at, new_axes, title
from mi_toolkit.views.figures.style import in_house_style, soft_ink
from mi_toolkit.views.figures.value_map import (
    CELL_HEIGHT,
    CELL_WIDTH,
    LEFT,
    RIGHT,
    TOP,
    draw_values,
    panel_size,
)
from mi_toolkit.views.tokens import visible

SWEPT = {
    "log_prob": "log-probability of the target (nats)",
    "rank": "rank of the target",
    "kl": "KL from the clean prediction (nats)",
    "loss": "loss of the prompt (nats)",
}
HEAD = 0.5
ABREAST = 2
"""Maps side by side: in a column of text, four are too small to read."""

BEFORE, AFTER, RANDOM = "#8c8c8c", LINES[1], "#a0a0a0"


@in_house_style
def sweep_maps(sweep: AblationSweep) -> Figure:
    """What each head's ablation changes: a map for each figure, layers downwards, heads across."""
    n_layers, n_heads = sweep.log_prob.shape
    width, height = panel_size(n_layers, n_heads)
    n_rows = -(-len(SWEPT) // ABREAST)
    figure = Figure(figsize=(max(ABREAST * width, 6.5), HEAD + n_rows * height))
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
    bars, strips = 0.26 * len(tokens), 0.5 * len(FIGURES)
    upper = max(bars, strips)
    width = max(9.6, 0.8 + 0.3 * n_positions)
    height = HEAD + 0.45 + upper + 0.95 + 0.9 + 0.85
    figure = Figure(figsize=(width, height))
    title(figure, effect.title())
    _draw_tokens(axes_at(figure, 1.35, HEAD + 0.45, 2.9, bars), effect, tokens)
    for place, name in enumerate(FIGURES):
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
    change, random = effect.change[name], effect.control_changes[name].tolist()
    ax.axvline(0, color=soft_ink(), linewidth=0.8)
    ax.plot(random, [0] * len(random), "o", color=RANDOM, markersize=4, markeredgewidth=0)
    ax.plot([change], [0], "D", color=AFTER, markersize=5.5, markeredgewidth=0)
    ax.set_yticks([0], [FIGURES[name]], fontsize=7)
    every = [0.0, change, *random]
    room = 0.06 * (max(every) - min(every)) or 1.0
    ax.set_xlim(min(every) - room, max(every) + room)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=name == "rank"))
    if name == next(iter(FIGURES)):
        text = "change" if not random else "change; grey: random sets of the same size"
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
    ax.set_title("KL of the prediction behind each token (nats)", fontsize=9, loc="left")
    _quiet(ax)


def _quiet(ax: Axes) -> None:
    ax.tick_params(length=0, labelsize=7)
    ax.spines[["top", "right", "left"]].set_visible(False)
