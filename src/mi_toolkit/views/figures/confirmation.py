"""Confirmations: each loss change against the band of other heads, a panel to a label."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from mi_toolkit.interventions.confirm.confirmation import Confirmation, Trial
from mi_toolkit.views.colours import VERDICTS
from mi_toolkit.views.figures.sheet import axes_at, title
from mi_toolkit.views.figures.style import in_house_style, soft_ink

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
    figure = Figure(figsize=(LEFT + WIDTH + RIGHT, height))
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


@dataclass(frozen=True)
class _Row:
    """A change with its interval, among those of other heads."""

    name: str
    change: float
    low: float
    high: float
    others: Tensor
    colour: str
    note: str

    def values(self) -> list[float]:
        every = [*self.others.tolist(), self.change, self.low, self.high]
        return [value for value in every if value == value]


def _rows(trial: Trial) -> list[_Row]:
    effect = trial.effect
    few = len(trial.heads) <= 2
    whole = _Row(
        " ".join(map(str, trial.heads)) if few else f"{len(trial.heads)} heads",
        effect.change,
        effect.change_low,
        effect.change_high,
        effect.random,
        VERDICTS[trial.verdict],
        f"{trial.verdict}: {trial.reason}",
    )
    layers = trial.explanation.layers if trial.explanation else ()
    return [
        whole,
        *(
            _Row(
                "only " + " ".join(map(str, part.heads)),
                part.change,
                part.change_low,
                part.change_high,
                part.others,
                soft_ink(),
                f"rank {part.rank} of {len(part.others) + 1} in its layer",
            )
            for part in layers
        ),
    ]


def _draw(ax: Axes, rows: list[_Row]) -> None:
    ax.axvline(0, color=soft_ink(), linewidth=0.8)
    for y, row in enumerate(rows):
        _draw_row(ax, y, row)
    ax.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=8)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    shown = [0.0, *(value for row in rows for value in row.values())]
    room = 0.05 * (max(shown) - min(shown)) or 1e-3
    ax.set_xlim(min(shown) - room, max(shown) + room)
    ax.tick_params(axis="x", labelsize=7, length=2)
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)


def _draw_row(ax: Axes, y: int, row: _Row) -> None:
    if len(row.others):
        low, high = row.others.quantile(torch.tensor(BAND)).tolist()
        ax.barh(y, high - low, left=low, height=0.62, color="#dddddd", linewidth=0)
        ax.plot(
            row.others.tolist(),
            [y] * len(row.others),
            "o",
            color="#777777",
            markersize=2.5,
            alpha=0.5,
            markeredgewidth=0,
        )
    ax.plot([row.low, row.high], [y, y], color=row.colour, linewidth=1.6)
    ax.plot([row.change], [y], "D", color=row.colour, markersize=5.5, markeredgewidth=0)
    ax.text(
        1.02,
        y,
        row.note,
        transform=ax.get_yaxis_transform(),
        va="center",
        fontsize=7.5,
        color=row.colour,
    )
