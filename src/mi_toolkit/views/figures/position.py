"""One position's predictions as a picture."""

from __future__ import annotations

import math

from matplotlib.figure import Figure

from mi_toolkit.pipeline.pipeline import Pipeline
from mi_toolkit.views.figures.sheet import title
from mi_toolkit.views.figures.style import in_house_style
from mi_toolkit.views.figures.token_grid import draw_grid, grid_size
from mi_toolkit.views.position import position_grid
from mi_toolkit.views.token_grid import GridCell, TokenGrid, percent
from mi_toolkit.views.tokens import visible

TOP, MARGIN = 0.5, 0.15


@in_house_style
def position_figure(pipeline: Pipeline, position: int, top_k: int) -> Figure:
    """What every layer would predict behind one token; without a lens, what the model predicts."""
    lens = pipeline.output.lens
    grid = (
        _predictions(pipeline, position, top_k)
        if lens is None
        else position_grid(pipeline, lens, position, top_k)
    )
    width, height = grid_size(grid)
    figure = Figure(figsize=(max(width, 5.0) + 2 * MARGIN, TOP + height + MARGIN))
    text = visible(pipeline.tokens.texts[position])
    title(figure, f"{pipeline.provenance.model} behind token {position}, {text}")
    draw_grid(figure, grid, MARGIN, TOP)
    return figure


def _predictions(pipeline: Pipeline, position: int, top_k: int) -> TokenGrid:
    stage = pipeline.output
    choices = zip(
        stage.top_ids[position, :top_k].tolist(),
        stage.top_log_probs[position, :top_k].tolist(),
        strict=True,
    )
    cells = tuple(
        GridCell(
            text=visible(pipeline.texts[token], longest=12),
            probability=math.exp(log_prob),
            tip=f"{pipeline.texts[token]!r} {percent(math.exp(log_prob))}",
        )
        for token, log_prob in choices
    )
    return TokenGrid(
        title="Most probable next tokens",
        corner="",
        columns=tuple((str(rank), "rank") for rank in range(1, top_k + 1)),
        rows=("the model",),
        cells=(cells,),
        framed="",
    )
