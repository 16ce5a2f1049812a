"""Confirmations: each loss change against the band of random heads, a panel to a label."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mi_toolkit.interventions.confirm.confirmation import Confirmation, Trial
from mi_toolkit.views.colours import VERDICTS
from mi_toolkit.views.figures.sheet import axes_at, title
from mi_toolkit.views.figures.style import in_house_style, soft_ink

ROW, TOP, BETWEEN, FOOT = 0.3, 0.85, 0.62, 0.1
LEFT, WIDTH, RIGHT = 1.2, 4.4, 4.6
BAND = (0.025, 0.975)


@in_house_style
def confirmation_figure(confirmation: Confirmation) -> Figure:
    """What ablation changed, label by label: the labelled heads' change among the random ones.

    A row is a trial: a dot for each random set (or other head), a band over the middle 95% of
    them, and the labelled heads' change with its 95% interval, coloured by verdict. Labels have
    scales of their own.
    """
    labels = list(dict.fromkeys(trial.label for trial in confirmation.trials))
    panels = [(label, confirmation[label]) for label in labels]
    n_rows = sum(len(trials) for _, trials in panels)
    height = TOP + n_rows * ROW + len(panels) * BETWEEN + FOOT
    figure = Figure(figsize=(LEFT + WIDTH + RIGHT, height))
    title(figure, confirmation.title())
    y = TOP
    for label, trials in panels:
        ax = axes_at(figure, LEFT, y, WIDTH, len(trials) * ROW)
        stimulus = trials[0].stimulus
        ax.set_title(f"{label} on {stimulus}", fontsize=9, loc="left", parse_math=False)
        _draw(ax, trials)
        y += len(trials) * ROW + BETWEEN
    figure.text(
        LEFT / figure.get_figwidth(),
        0.12 / height,
        "change of the loss in nats; grey: random heads of the same layers"
        if confirmation.by == "label"
        else "change of the loss in nats; grey: single heads without the label",
        fontsize=8,
    )
    return figure


def _draw(ax: Axes, trials: tuple[Trial, ...]) -> None:
    ax.axvline(0, color=soft_ink(), linewidth=0.8)
    for row, trial in enumerate(trials):
        _draw_trial(ax, row, trial)
    names = [
        " ".join(map(str, trial.heads)) if len(trial.heads) <= 2 else f"{len(trial.heads)} heads"
        for trial in trials
    ]
    ax.set_yticks(range(len(trials)), names, fontsize=8)
    ax.set_ylim(len(trials) - 0.5, -0.5)
    shown = [0.0, *(value for trial in trials for value in _values(trial))]
    room = 0.05 * (max(shown) - min(shown)) or 1e-3
    ax.set_xlim(min(shown) - room, max(shown) + room)
    ax.tick_params(axis="x", labelsize=7, length=2)
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)


def _values(trial: Trial) -> list[float]:
    effect = trial.effect
    every = [*effect.random.tolist(), effect.change, effect.change_low, effect.change_high]
    return [value for value in every if value == value]


def _draw_trial(ax: Axes, row: int, trial: Trial) -> None:
    effect, colour = trial.effect, VERDICTS[trial.verdict]
    if len(effect.random):
        low, high = effect.random.quantile(torch.tensor(BAND)).tolist()
        ax.barh(row, high - low, left=low, height=0.62, color="#dddddd", linewidth=0)
        ax.plot(
            effect.random.tolist(),
            [row] * len(effect.random),
            "o",
            color="#777777",
            markersize=2.5,
            alpha=0.5,
            markeredgewidth=0,
        )
    ax.plot([effect.change_low, effect.change_high], [row, row], color=colour, linewidth=1.6)
    ax.plot([effect.change], [row], "D", color=colour, markersize=5.5, markeredgewidth=0)
    ax.text(
        1.02,
        row,
        f"{trial.verdict}: {trial.reason}",
        transform=ax.get_yaxis_transform(),
        va="center",
        fontsize=7.5,
        color=colour,
    )
