"""Sensitivity runs side by side: depth, components, and what their tops share."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mi_toolkit.sensitivity.run_comparison import RunComparison
from mi_toolkit.views.colours import SEQUENTIAL, ink_on, shade
from mi_toolkit.views.figures.sheet import axes_at, colour_map, title
from mi_toolkit.views.figures.style import in_house_style, line, line_colours

COMPONENTS = ("W_Q", "W_K", "W_V", "W_O", "W_in", "W_gate", "W_out")
PALETTE = dict(
    zip(
        COMPONENTS,
        ("#9ecae1", "#4292c6", "#08519c", "#08306b", "#fdb863", "#e08214", "#b35806"),
        strict=True,
    )
)
"""Attention in blues, the MLP in browns."""

LEFT, WIDTH, ROW = 2.4, 4.6, 0.34


@in_house_style
def run_comparison_figure(comparison: RunComparison) -> Figure:
    """Three panels: the tops by depth, by component, and their overlap pair by pair.

    By depth the height is the share of the top in a block times the number of blocks: 1 where the
    top is spread evenly, whatever the model's depth.
    """
    n = len(comparison.runs)
    height = 0.9 + 2.2 + 0.9 + n * ROW + 1.0 + n * ROW + 0.8
    figure = Figure(figsize=(LEFT + WIDTH + 1.6, height))
    title(figure, f"The top {comparison.k:,} weights by {comparison.metric}")
    _depth(axes_at(figure, 0.7, 0.75, LEFT + WIDTH - 0.7, 2.2), comparison)
    top = 0.75 + 2.2 + 0.95
    _components(axes_at(figure, LEFT, top, WIDTH, n * ROW), comparison)
    top += n * ROW + 1.0
    _overlap(axes_at(figure, LEFT, top, max(1.2, n * 0.62), n * ROW), comparison)
    return figure


def _depth(ax: Axes, comparison: RunComparison) -> None:
    colours = line_colours()
    for index, run in enumerate(comparison.runs):
        span = max(1, run.n_layers - 1)
        places = [layer / span for layer in range(run.n_layers)]
        shares = [share * run.n_layers for share in run.profile]
        colour = colours[index % len(colours)]
        style = "-" if index < len(colours) else "--"
        ax.plot(places, shares, style, color=colour, marker="o", markersize=3, label=run.name)
    ax.axhline(1, color=line(), linewidth=0.8, zorder=0)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("depth: 0 the first block, 1 the last", fontsize=8)
    ax.set_ylabel("times an even spread", fontsize=8)
    ax.tick_params(labelsize=7)
    ax.legend(fontsize=7)


def _components(ax: Axes, comparison: RunComparison) -> None:
    names = sorted(
        comparison.components,
        key=lambda name: (COMPONENTS.index(name) if name in COMPONENTS else 99, name),
    )
    starts = [0.0] * len(comparison.runs)
    for name in names:
        shares = [run.components.get(name, 0.0) for run in comparison.runs]
        colour = PALETTE.get(name, "#999999")
        ax.barh(range(len(shares)), shares, left=starts, height=0.7, color=colour, label=name)
        starts = [start + share for start, share in zip(starts, shares, strict=True)]
    _name_rows(ax, comparison)
    ax.set_xlim(0, 1)
    ax.set_xlabel("share of the top in each kind of matrix", fontsize=8)
    ax.tick_params(axis="x", labelsize=7)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _overlap(ax: Axes, comparison: RunComparison) -> None:
    n = len(comparison.runs)
    ax.imshow(comparison.places.numpy(), vmin=0, vmax=1, cmap=colour_map(SEQUENTIAL), aspect="auto")
    for row in range(n):
        for column in range(n):
            value = float(comparison.places[row, column])
            same = float(comparison.weights[row, column])
            told = f"{value:.2f}" + ("" if same != same else f"\n({same:.2f})")
            ink = ink_on(shade(value, SEQUENTIAL))
            ax.text(column, row, told, ha="center", va="center", fontsize=6.5, color=ink)
    _name_rows(ax, comparison)
    ax.set_xticks(range(n), [str(index + 1) for index in range(n)], fontsize=7)
    ax.set_xlabel("overlap by depth and component (in brackets: the same weights)", fontsize=8)
    ax.tick_params(length=0)


def _name_rows(ax: Axes, comparison: RunComparison) -> None:
    names = [f"{run.name}  {index + 1}" for index, run in enumerate(comparison.runs)]
    ax.set_yticks(range(len(names)), names, fontsize=8, parse_math=False)
    ax.set_ylim(len(names) - 0.5, -0.5)
