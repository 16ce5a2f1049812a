"""How near heads look: how many heads have which locality, by scope."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from mi_toolkit.heads.labels import LOCAL_FROM
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.views.colours import SCOPES
from mi_toolkit.views.figures.sheet import new_axes
from mi_toolkit.views.figures.style import in_house_style, ink, line, soft_ink

UNDETERMINED = "#999999"
BIN = 0.1
Counts = np.ndarray[tuple[int], np.dtype[np.float64]]


@in_house_style
def locality_histogram(report: HeadReport, ax: Axes | None = None) -> Axes:
    """Heads by locality, coloured by scope; heads of layers with a window are hatched.

    0 is even attention over all earlier tokens, 1 the nearest token alone; the bar between `local`
    and `global` is dashed. Heads that rest on the first token have no locality, and are counted in
    the title.

    Args:
        report: with `locality`.
        ax: axes to draw in; None for a figure of its own, which is `ax.figure`.

    Raises:
        UnknownNameError: the report has no `locality`.
    """
    values = report["locality"]
    if ax is None:
        ax = new_axes(3.2, 2.2, right=1.7)
    low = min(0.0, float(values.nan_to_num(0.0).min()))
    edges = np.arange(np.floor(low / BIN) * BIN, 1 + BIN / 2, BIN)
    base = np.zeros(len(edges) - 1)
    for name, colour in SCOPES.items():
        in_scope = report.scope == report.scope_names.index(name)
        for has_window in (False, True):
            layers = [bool(window) == has_window for window in report.windows]
            chosen = [
                float(value)
                for layer, matches in enumerate(layers)
                for value in values[layer][in_scope[layer]]
                if matches and value == value
            ]
            base = _stack(ax, chosen, edges, base, _colour(name, colour), hatched=has_window)
    ax.axvline(LOCAL_FROM, color=ink(), linewidth=0.8, linestyle=(0, (3, 2)))
    ax.axvline(0, color=line(), linewidth=0.8, zorder=0)
    ax.set(xlabel="locality (0 even, 1 nearest)", ylabel="heads")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    without = int(values.isnan().sum())
    rest = f"; {without} without" if without else ""
    ax.set_title(f"{report.provenance.model}: how near heads look{rest}", parse_math=False)
    ax.legend(handles=_handles(report), loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return ax


def _colour(name: str, colour: str) -> str:
    return UNDETERMINED if name == "undetermined" else colour


def _stack(
    ax: Axes,
    values: Sequence[float],
    edges: Counts,
    base: Counts,
    colour: str,
    *,
    hatched: bool,
) -> Counts:
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    ax.bar(
        edges[:-1],
        counts,
        width=BIN * 0.92,
        align="edge",
        bottom=base,
        color=colour,
        hatch="////" if hatched else None,
        edgecolor="white",
        linewidth=0,
    )
    stacked: Counts = base + counts
    return stacked


def _handles(report: HeadReport) -> list[Patch]:
    shown = [
        Patch(facecolor=_colour(name, colour), label=name)
        for name, colour in SCOPES.items()
        if (report.scope == report.scope_names.index(name)).any()
    ]
    if any(report.windows):
        windowed = "in a windowed layer"
        shown.append(Patch(facecolor=soft_ink(), hatch="////", edgecolor="white", label=windowed))
    return shown
