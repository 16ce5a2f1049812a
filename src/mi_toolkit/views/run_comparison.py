"""A view of sensitivity runs side by side: one picture and one table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mi_toolkit.sensitivity.run_comparison import RunComparison
from mi_toolkit.shown import html_table
from mi_toolkit.views.picture import PictureView

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def view_runs(comparison: RunComparison) -> PictureView:
    """Where in depth the tops of several runs lie, in which components, and what they share.

    Args:
        comparison: one of `compare_runs`.
    """

    def draw() -> Figure:
        from mi_toolkit.views.figures import run_comparison_figure

        return run_comparison_figure(comparison)

    table = comparison.to_pandas()
    header = [name.replace("_", " ") for name in table.columns]
    rows = [[_cell(value) for value in row] for row in table.itertuples(index=False)]
    return PictureView(
        title=f"The top {comparison.k:,} weights by {comparison.metric}",
        caption=(
            "Where in depth they lie, in which kind of matrix, and how much the runs share: by "
            "thirds of depth and kinds of matrix for any two models, weight by weight (in "
            "brackets) where both have the same matrices."
        ),
        draw=draw,
        body=f'<div class="wide">{html_table(header, rows)}</div>',
    )


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if math.isfinite(value) else ""
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
