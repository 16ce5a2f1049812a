"""The card of a head as a figure."""

from __future__ import annotations

import textwrap

from matplotlib.figure import Figure

from mi_toolkit.cards.card import HeadCard
from mi_toolkit.draw.cards import loss_strip, relation_strip
from mi_toolkit.draw.figures.style import (
    Sheet,
    axes_at,
    draw_strip,
    heading,
    in_house_style,
    muted_text,
    title,
    write,
)

LEFT, WIDTH, ROW = 2.1, 3.6, 0.24
"""Inches of names, of a panel next to them, and of a row."""

LINE, SIGNS = 0.18, 140
"""Inches of a line of words, and the signs that it has room for."""


@in_house_style
def card_figure(card: HeadCard) -> Figure:
    """A head's card as a picture: the lift of each relation, and what ablating it costs.

    Left, each relation's lift with its 95% interval, and a dot for the lift by attention alone.
    Right, for the first kind of ablation, the change of the loss by kind of predicted token, with a
    dot for each other head of the layer. Below, the card in words.
    """
    losses = [loss for loss in card.losses if loss.how == card.losses[0].how]
    words = [(name, textwrap.wrap(said, SIGNS) or [""]) for name, said in card.text_table().rows]
    below = 1.35 + ROW * max(len(card.relations), len(losses))
    n_lines = sum(len(lines) for _, lines in words)
    figure = Sheet(figsize=(2 * (LEFT + WIDTH) + 0.3, below + LINE * n_lines + 0.2))
    title(figure, card.title())
    panels = [
        ("lift over chance of what it moves (dot: by attention alone)",
         [(each.relation, relation_strip(each)) for each in card.relations]),
    ]  # fmt: skip
    if losses:
        told = f"loss in nats, {losses[0].how} ablation (dots: other heads)"
        panels.append((told, [(loss.kind, loss_strip(loss)) for loss in losses]))
    for column, (name, rows) in enumerate(panels):
        x = LEFT + column * (WIDTH + LEFT)
        ax = axes_at(figure, x, 0.85, WIDTH, ROW * len(rows))
        heading(figure, x, 0.6, name)
        ax.axvline(0, color=muted_text(), linewidth=0.8)
        for y, (_, strip) in enumerate(rows):
            draw_strip(ax, y, strip, dots="#777777")
        ax.set_yticks(range(len(rows)), [label for label, _ in rows], fontsize=8)
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.tick_params(axis="x", labelsize=7, length=2)
        ax.tick_params(axis="y", length=0)
        ax.spines[["top", "right", "left"]].set_visible(False)
    down = below
    for name, lines in words:
        write(figure, LEFT - 0.15, down, name, fontsize=8, ha="right", va="top", color=muted_text())
        for line in lines:
            write(figure, LEFT, down, line, fontsize=8, va="top")
            down += LINE
    return figure
