"""Stimuli against each other: each head's figure on one by its figure on the other."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mi_toolkit.comparison.stimuli import StimulusComparison, StimulusPair, labelled_heads
from mi_toolkit.views.colours import LINES
from mi_toolkit.views.figures.sheet import axes_at, title
from mi_toolkit.views.figures.style import in_house_style, line

SIDE, GAP_ACROSS, GAP_DOWN = 1.9, 0.75, 0.95
LEFT, TOP, COLUMNS = 0.65, 0.95, 4
KINDS = {
    (True, True): ("labelled on both", LINES[0], "o"),
    (True, False): ("on the first alone", LINES[1], "^"),
    (False, True): ("on the second alone", LINES[2], "s"),
    (False, False): ("on neither", "#bbbbbb", "."),
}


@in_house_style
def stimulus_grid(comparison: StimulusComparison) -> Figure:
    """One panel per behaviour and pair of stimuli, one mark per head, by whether it is labelled."""
    pairs = comparison.pairs
    n_columns = min(COLUMNS, max(1, len(pairs)))
    n_rows = -(-len(pairs) // n_columns)
    figure = Figure(
        figsize=(
            LEFT + n_columns * (SIDE + GAP_ACROSS),
            TOP + n_rows * (SIDE + GAP_DOWN) + 0.1,
        )
    )
    title(figure, f"Heads of {comparison.model} from one stimulus to another")
    for index, pair in enumerate(pairs):
        row, column = divmod(index, n_columns)
        x, y = LEFT + column * (SIDE + GAP_ACROSS), TOP + row * (SIDE + GAP_DOWN)
        _draw(axes_at(figure, x, y, SIDE, SIDE), comparison, pair)
    figure.legend(
        handles=[
            figure.axes[0].plot([], [], mark, color=colour, label=name)[0]
            for name, colour, mark in KINDS.values()
        ]
        if figure.axes
        else [],
        loc="lower left",
        ncols=4,
        fontsize=8,
        frameon=False,
        handletextpad=0.2,
    )
    return figure


def _draw(ax: Axes, comparison: StimulusComparison, pair: StimulusPair) -> None:
    one, other = comparison.reports[pair.stimulus], comparison.reports[pair.other]
    across, down = one[pair.behaviour].flatten(), other[pair.behaviour].flatten()
    ax.axline((0, 0), slope=1, color=line(), linewidth=0.8)
    ax.axhline(0, color=line(), linewidth=0.8)
    ax.axvline(0, color=line(), linewidth=0.8)
    first, second = (labelled_heads(report, pair.behaviour) for report in (one, other))
    for (here, there), (_, colour, mark) in reversed(KINDS.items()):
        chosen = (first == here) & (second == there)
        ax.plot(across[chosen], down[chosen], mark, color=colour, markersize=4, alpha=0.8)
    low = -1.05 if pair.behaviour == "locality" else -0.15
    ax.set(xlim=(low, 1.05), ylim=(low, 1.05))
    ax.set_xlabel(pair.stimulus, fontsize=7.5)
    ax.set_ylabel(pair.other, fontsize=7.5)
    ax.tick_params(labelsize=7, length=2)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title(
        f"{pair.behaviour}\nrank correlation {pair.rank_correlation:.2f}", fontsize=9, loc="left"
    )
