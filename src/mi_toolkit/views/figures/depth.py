"""Where in a model the labelled heads lie: a row per label, depth across."""

from __future__ import annotations

from collections import Counter

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mi_toolkit.heads.report import HeadReport
from mi_toolkit.views.colours import LABELS, OTHER_LABEL
from mi_toolkit.views.figures.sheet import new_axes
from mi_toolkit.views.figures.style import in_house_style, ink, line, soft_ink

LARGEST, SMALLEST = 150, 12
"""Area of a mark, in square points: what all heads of a layer add, and what is there for one."""


@in_house_style
def labels_by_depth(report: HeadReport, ax: Axes | None = None) -> Axes:
    """One row per label, layers across: the larger a mark, the more of the layer's heads carry it.

    The number of heads that carry a label stands at the right. Labels that no head carries are
    left out.

    Args:
        report: whose labels to show.
        ax: axes to draw in; None for a figure of its own, which is `ax.figure`.
    """
    found = {name: report.heads(name) for name in report.label_names}
    shown = {name: heads for name, heads in found.items() if heads}
    n_layers, n_heads = report.scope.shape
    if ax is None:
        ax = new_axes(4.2, 0.3 * max(len(shown), 1), left=1.45, right=0.5)
    for row, (name, heads) in enumerate(shown.items()):
        counts = Counter(head.layer for head in heads)
        ax.axhline(row, color=line(), linewidth=0.8, zorder=0)
        ax.scatter(
            list(counts),
            [row] * len(counts),
            s=[LARGEST * count / n_heads + SMALLEST for count in counts.values()],
            color=_visible(LABELS.get(name, OTHER_LABEL)),
            linewidths=0,
        )
        ax.annotate(
            str(len(heads)),
            (1.02, row),
            xycoords=ax.get_yaxis_transform(),
            va="center",
            fontsize=8,
            color=soft_ink(),
        )
    ax.set_yticks(range(len(shown)), shown, parse_math=False)
    ax.set(xlim=(-0.7, n_layers - 0.3), ylim=(len(shown) - 0.5, -0.5), xlabel="layer")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_title(f"{report.provenance.model}: labels by depth", parse_math=False)
    return ax


def _visible(colour: str) -> str:
    return ink() if colour == OTHER_LABEL else colour
