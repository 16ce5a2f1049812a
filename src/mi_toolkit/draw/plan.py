"""A plan of a run as a page: what will be done, and what it takes."""

from __future__ import annotations

from mi_toolkit.core.display import html_table
from mi_toolkit.draw import figures
from mi_toolkit.draw.page import ResultView
from mi_toolkit.models.planning import RunPlan


def view_plan(plan: RunPlan) -> ResultView:
    """A plan to look at.

    Example:
        >>> import mi_toolkit as mi
        >>> mi.view(mi.plan("toy-gpt2", memory="4GiB"))
        View of classify on toy-gpt2: ... at the peak, fits in 4.0 GiB
    """
    rows = plan.cells()
    return ResultView(
        title=plan.title(),
        caption=(
            "What will be done before anything is loaded, by the model's config alone. Peak memory "
            "is that of a process of its own; time is what arithmetic and reading take here at the "
            "least, by rates that were measured for it."
        ),
        body=lambda: html_table((), rows),
        draw=lambda: figures.plan_figure(plan),
        height=160 + 44 * len(rows),
    )
