"""Models side by side: shares of heads, where in depth they lie, how far predictions agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from mi_toolkit.comparison.model_comparison import ModelComparison
from mi_toolkit.comparison.profile import LabelProfile
from mi_toolkit.views.colours import LINES, SEQUENTIAL, UNMEASURED, ink_on
from mi_toolkit.views.figures.sheet import axes_at, colour_map, title
from mi_toolkit.views.figures.style import in_house_style, line, soft_ink

CELL, ROW = 0.78, 0.32
TOP, CAPTION = 1.5, 0.3
MATRIX_ROW = 0.46
SPREAD = 0.22
"""How far apart heads of one depth stand in a row, in rows."""


@in_house_style
def comparison_grid(comparison: ModelComparison) -> Figure:
    """Shares and depths per label, one row per model, and the agreement of each pair."""
    models, n_models = comparison.models, len(comparison.models)
    profiles = [_by_label(comparison.profiles(name)) for name in models]
    labels = _labels(profiles)
    rows = [[model.get(label) for label in labels] for model in profiles]
    left = 0.35 + 0.085 * max(map(len, models))
    height, matrix = n_models * ROW, n_models * MATRIX_ROW
    depths = TOP + height + CAPTION + 0.3
    pairs = depths + height + 0.35 + CAPTION + 0.4 + 0.055 * max(map(len, models))
    width = left + max(len(labels) * CELL + 0.6, n_models * CELL + 2.9)
    figure = Figure(figsize=(width, pairs + matrix + 0.25))
    title(figure, f"Heads of {n_models} models on the same text")
    _draw_shares(axes_at(figure, left, TOP, len(labels) * CELL, height), models, labels, rows)
    _say(figure, left, TOP + height, "Heads with each label; grey: the text cannot show it")
    for column in range(len(labels)):
        ax = axes_at(figure, left + (column + 0.07) * CELL, depths, CELL * 0.86, height)
        _draw_depths(ax, [row[column] for row in rows])
        if column == 0:
            ax.set_yticks(range(n_models), models, fontsize=8, parse_math=False)
    _say(
        figure,
        left,
        depths + height + 0.2,
        "Where in depth these lie: 0 the embedding, 1 the unembedding; bar: quartiles and median",
    )
    _draw_agreement(axes_at(figure, left, pairs, n_models * CELL, matrix), comparison)
    _say(
        figure,
        left + n_models * CELL + 0.1,
        pairs,
        "Next-token agreement where both\nmodels have just finished a token;\n"
        "colour: beyond chance. Diagonal:\nhow often the model itself is right.",
    )
    return figure


def _labels(profiles: Sequence[Mapping[str, LabelProfile]]) -> list[str]:
    """Every label, then the scope `local`: `global` is most of the rest."""
    names = dict.fromkeys(name for model in profiles for name in model)
    return [name for name in names if name not in ("global", "undetermined")]


def _by_label(profiles: Sequence[LabelProfile]) -> dict[str, LabelProfile]:
    return {shown.label: shown for shown in profiles}


def _draw_shares(
    ax: Axes,
    models: Sequence[str],
    labels: Sequence[str],
    rows: Sequence[Sequence[LabelProfile | None]],
) -> None:
    shares = np.array([[np.nan if c is None else c.share for c in row] for row in rows])
    shades = colour_map(SEQUENTIAL).with_extremes(bad=UNMEASURED)
    ax.imshow(np.ma.masked_invalid(shares), cmap=shades, vmin=0, vmax=1, aspect="auto")
    _name(ax, models, labels)
    for y, row in enumerate(rows):
        for x, cell in enumerate(row):
            if cell is None or not cell.applicable:
                continue
            ax.text(
                x,
                y,
                f"{cell.count}  ({cell.share:.0%})",
                ha="center",
                va="center",
                fontsize=7,
                color=ink_on(to_hex(shades(cell.share))),
            )


def _name(ax: Axes, rows: Sequence[str], columns: Sequence[str]) -> None:
    ax.set_yticks(range(len(rows)), rows, fontsize=8, parse_math=False)
    ax.set_xticks(
        range(len(columns)),
        columns,
        fontsize=8,
        rotation=35,
        ha="left",
        rotation_mode="anchor",
        parse_math=False,
    )
    ax.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    ax.spines[:].set_visible(False)


def _draw_depths(ax: Axes, column: Sequence[LabelProfile | None]) -> None:
    colour = LINES[0]
    ax.set(xlim=(0, 1), ylim=(len(column) - 0.5, -0.5))
    ax.set_yticks([])
    ax.set_xticks([0, 0.5, 1], ["0", "½", "1"], fontsize=6.5)
    ax.tick_params(axis="x", length=2)
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)
    for y, shown in enumerate(column):
        ax.axhline(y, color=line(), linewidth=0.8, zorder=0)
        if shown is None or not shown.count:
            continue
        low, middle, high = shown.depth_quartiles
        ax.plot([low, high], [y, y], color=colour, linewidth=4.5, alpha=0.35, solid_capstyle="butt")
        ax.plot([middle], [y], "|", color=colour, markersize=9, markeredgewidth=1.8)
        ax.plot(shown.depths, y + _apart(shown.depths), ".", color=colour, markersize=3)


def _apart(depths: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Heads of one depth beside each other, within a row."""
    found = np.zeros(len(depths))
    for depth in set(depths):
        at = [index for index, other in enumerate(depths) if other == depth]
        found[at] = np.linspace(-SPREAD, SPREAD, len(at)) if len(at) > 1 else 0.0
    return found


def _draw_agreement(ax: Axes, comparison: ModelComparison) -> None:
    a, models = comparison.agreement, comparison.models
    lift = a.lift.clone().fill_diagonal_(float("nan")).numpy()
    shades = colour_map(SEQUENTIAL).with_extremes(bad="#f4f4f4")
    ax.imshow(np.ma.masked_invalid(lift), cmap=shades, vmin=0, vmax=1, aspect="auto")
    _name(ax, models, models)
    for y, one in enumerate(models):
        for x in range(len(models)):
            if x == y:
                text = f"{comparison.accuracy[one]:.0%}\nright"
            elif a.positions[y, x]:
                text = f"{float(a.share[y, x]):.0%}\nchance {float(a.chance[y, x]):.0%}"
            else:
                text = "no shared\nposition"
            ink = "black" if np.isnan(lift[y, x]) else ink_on(to_hex(shades(lift[y, x])))
            ax.text(x, y, text, ha="center", va="center", fontsize=6.5, color=ink)


def _say(figure: Figure, x: float, y: float, text: str) -> None:
    """A line of explanation with its upper left corner at `x`, `y`, in inches."""
    across, down = figure.get_figwidth(), figure.get_figheight()
    figure.text(x / across, 1 - (y + 0.08) / down, text, fontsize=8, color=soft_ink(), va="top")
