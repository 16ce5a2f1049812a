"""Untrained twins: a row per behaviour, their strongest heads beside the model's labelled ones."""

from __future__ import annotations

from matplotlib.axes import Axes

from mi_toolkit.heads.control import UntrainedControl
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.views.colours import LABELS, OTHER_LABEL
from mi_toolkit.views.figures.sheet import new_axes
from mi_toolkit.views.figures.style import in_house_style, ink, line, soft_ink

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
    ax.set_title(f"{control.provenance.model}: {control.n} untrained twins", parse_math=False)
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
            color=soft_ink(),
        )
