"""A plan of a run as a picture: what lies in memory, next to what there is."""

from __future__ import annotations

from itertools import accumulate

from matplotlib.figure import Figure

from mi_toolkit.core.memory import gigabytes
from mi_toolkit.draw.figures.style import (
    in_house_style,
    ink,
    line_colours,
    new_axes,
    sheet_of,
    title,
)
from mi_toolkit.models.planning import RunPlan

SHOWN = 4
"""Where there is more memory than so many peaks, its end is not drawn."""


@in_house_style
def plan_figure(plan: RunPlan) -> Figure:
    """A bar for each part, one after the other as they add up to the peak."""
    parts = {name: size / 2**30 for name, size in plan.parts.items() if size}
    ends = list(accumulate(parts.values()))
    starts = [end - size for end, size in zip(ends, parts.values(), strict=True)]
    ax = new_axes(5.4, 0.34 * (len(parts) + 1), left=1.9, top=0.7)
    names = [f"{name}, {gigabytes(plan.parts[name])}" for name in parts]
    colour, *_ = line_colours()
    ax.barh([*names, "peak"], [*parts.values(), ends[-1]], left=[*starts, 0], color=colour)
    if plan.memory < SHOWN * plan.peak:
        ax.axvline(plan.memory / 2**30, color=ink(), linestyle="--", linewidth=1)
        ax.annotate(" memory", (plan.memory / 2**30, 0), fontsize=8, va="center")
    ax.invert_yaxis()
    ax.set_xlabel("GiB")
    figure = sheet_of(ax)
    title(figure, plan.title())
    return figure
