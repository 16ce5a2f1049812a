"""Pipelines as pictures: every head's pattern, what the MLPs write, the logit lens."""

from __future__ import annotations

from matplotlib.figure import Figure

from mi_toolkit.pipeline.pipeline import Pipeline
from mi_toolkit.views.colours import LABELS, SEQUENTIAL
from mi_toolkit.views.figures.sheet import axes_at, colour_map, title
from mi_toolkit.views.figures.style import in_house_style, ink, line
from mi_toolkit.views.figures.token_grid import draw_grid, grid_size
from mi_toolkit.views.pipeline_grids import lens_grid, output_grid
from mi_toolkit.views.tokens import visible

TOP, BETWEEN, MARGIN, NAMES = 0.5, 0.4, 0.15, 0.75
PATTERN, PATTERN_ROOM = 0.72, 0.92
CELL, LABEL_ROOM, HEADING = 0.26, 0.75, 0.28


@in_house_style
def pipeline_figure(pipeline: Pipeline) -> Figure:
    """Patterns by layer and head, MLP output over the residual stream, and the lens.

    Patterns have queries downwards and keys across; labelled heads are framed in their first
    label's colour. Without a lens the model's own predictions stand in its place.
    """
    lens = pipeline.output.lens
    grid = output_grid(pipeline) if lens is None else lens_grid(pipeline, lens)
    grid_width, grid_height = grid_size(grid)
    n_layers, n_heads = pipeline.attention.entropies.shape
    patterns = HEADING + n_layers * PATTERN_ROOM
    norms = HEADING + len(pipeline.mlp.layers) * CELL + LABEL_ROOM if pipeline.mlp.layers else 0.0
    width = max(
        grid_width,
        NAMES + n_heads * PATTERN_ROOM,
        NAMES + len(pipeline.tokens.texts) * CELL + 0.4,
        5.0,
    )
    height = TOP + patterns + BETWEEN + norms + grid_height + MARGIN
    figure = Figure(figsize=(width + 2 * MARGIN, height))
    title(figure, f"From text to prediction: {pipeline.title()}")
    _patterns(figure, pipeline, TOP)
    if norms:
        _norms(figure, pipeline, TOP + patterns + 0.1)
    draw_grid(figure, grid, MARGIN, TOP + patterns + BETWEEN + norms)
    return figure


def _heading(figure: Figure, text: str, y: float) -> None:
    figure.text(
        MARGIN / figure.get_figwidth(),
        1 - (y + 0.15) / figure.get_figheight(),
        text,
        fontsize=9.5,
        weight="bold",
        parse_math=False,
    )


def _patterns(figure: Figure, pipeline: Pipeline, y: float) -> None:
    stage = pipeline.attention
    _heading(figure, _attention_heading(pipeline), y)
    for row, layer in enumerate(stage.layers):
        for head in range(stage.patterns.shape[1]):
            left = MARGIN + NAMES + head * PATTERN_ROOM
            ax = axes_at(figure, left, y + HEADING + row * PATTERN_ROOM, PATTERN, PATTERN)
            ax.imshow(
                stage.patterns[row, head].numpy(),
                cmap=colour_map(SEQUENTIAL),
                vmin=0,
                vmax=1,
                interpolation="nearest",
                aspect="auto",
            )
            ax.set(xticks=[], yticks=[])
            labels = stage.labels_of((layer, head))
            ax.set_xlabel(f"L{layer}H{head}", fontsize=6.5, labelpad=1.5)
            for spine in ax.spines.values():
                spine.set_linewidth(1.8 if labels else 0.5)
                spine.set_edgecolor(LABELS.get(labels[0], ink()) if labels else line())
    _legend(figure, pipeline, y)


def _attention_heading(pipeline: Pipeline) -> str:
    return f"Attention, queries downwards; labels on {pipeline.attention.labelled_on}"


def _legend(figure: Figure, pipeline: Pipeline, y: float) -> None:
    carried = {labels[0] for _, labels in pipeline.attention.labels}
    left = MARGIN + 0.35 + 0.082 * len(_attention_heading(pipeline))
    for label in [*(name for name in LABELS if name in carried), *sorted(carried - set(LABELS))]:
        height = 1 - (y + 0.15) / figure.get_figheight()
        across = figure.get_figwidth()
        figure.text(left / across, height, "■", fontsize=7.5, color=LABELS.get(label, ink()))
        figure.text((left + 0.13) / across, height, label, fontsize=7.5)
        left += 0.25 + 0.072 * len(label)


def _norms(figure: Figure, pipeline: Pipeline, y: float) -> None:
    stage = pipeline.mlp
    _heading(figure, "MLP output over the residual stream, by length", y)
    n_tokens = len(pipeline.tokens.texts)
    size = (n_tokens * CELL, len(stage.layers) * CELL)
    ax = axes_at(figure, MARGIN + NAMES, y + HEADING, *size)
    shares = stage.norms / stage.residual_norms.clamp(min=1e-9)
    drawn = ax.imshow(
        shares.numpy(),
        cmap=colour_map(SEQUENTIAL),
        vmin=0,
        vmax=max(1.0, float(shares.max())),
        interpolation="nearest",
        aspect="auto",
    )
    names = [f"layer {layer}" for layer in stage.layers]
    ax.set_yticks(range(len(names)), names, fontsize=7)
    texts = [visible(text, longest=10) for text in pipeline.tokens.texts]
    ax.set_xticks(range(n_tokens), texts, fontsize=7, rotation=90, parse_math=False)
    ax.tick_params(length=0)
    bar = axes_at(figure, MARGIN + NAMES + size[0] + 0.1, y + HEADING, 0.09, size[1])
    figure.colorbar(drawn, cax=bar).ax.tick_params(labelsize=6, length=2)
