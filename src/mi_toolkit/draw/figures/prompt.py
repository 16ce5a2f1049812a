"""One prompt: its attribution, its way through the model, what it predicts and goes on with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch, Rectangle
from matplotlib.path import Path

from mi_toolkit.attribution.attribute import Attribution
from mi_toolkit.draw.figures.grids import draw_grid, grid_size
from mi_toolkit.draw.figures.style import (
    Sheet,
    axes_at,
    background,
    colour_map,
    heading,
    in_house_style,
    ink,
    line,
    muted_text,
    sheet_of,
    title,
    write,
)
from mi_toolkit.draw.generation import Tree, TreeScale, alternatives_grid, placed_tree
from mi_toolkit.draw.marked_text import colours_of
from mi_toolkit.draw.pipeline import lens_grid, output_grid, position_grid
from mi_toolkit.draw.primitives import (
    DIVERGING,
    FRAME,
    LABELS,
    SEQUENTIAL,
    TokenGrid,
    ink_on,
    shade,
    visible,
)
from mi_toolkit.text.generation import Generation
from mi_toolkit.text.pipeline import Pipeline

WIDTH, SIDE, TOP, FOOT = 9.0, 0.15, 0.65, 0.75
BOX, ROW, GAP = 0.3, 0.58, 0.05
SIGN, PADDING = 0.092, 0.16
"""Width of a sign and of the space around a word, in inches."""

NARROWEST = 0.42


@in_house_style
def attribution_figure(found: Attribution, ax: Axes | None = None) -> Axes:
    """The prompt, wrapped into lines: colour and the figure below a token are its score.

    Args:
        found: of `attribute`.
        ax: axes to draw in, whose width is where lines are broken; None for a figure of its own,
            which is `ax.figure`, with a scale.
    """
    labels = [visible(text) for text in found.tokens]
    if ax is not None:
        width = ax.get_position().width * sheet_of(ax).get_figwidth()
        _draw(ax, found, labels, width=width)
        ax.set_title(found.title(), parse_math=False)
        return ax
    n_rows = _places(labels, WIDTH)[1]
    height = TOP + n_rows * ROW + FOOT
    figure = Sheet(figsize=(WIDTH, height))
    title(figure, f"{found.title()}, by {found.method}")
    ax = axes_at(figure, 0.0, TOP, WIDTH, n_rows * ROW)
    _draw(ax, found, labels, width=WIDTH)
    _scale(figure, found, height)
    return ax


def _draw(ax: Axes, found: Attribution, labels: list[str], *, width: float) -> None:
    places, n_rows = _places(labels, width)
    ax.set(xlim=(0, width), ylim=(n_rows * ROW, 0))
    ax.axis("off")
    words: dict[str, Any] = {"ha": "center", "va": "center", "parse_math": False}
    scores, colours = found.scores.tolist(), colours_of(found)
    for label, score, colour, place in zip(labels, scores, colours, places, strict=True):
        x, row, across = place
        corner, middle = (x, row * ROW), x + across / 2
        ax.add_patch(
            Rectangle(corner, across, BOX, facecolor=colour, edgecolor=line(), linewidth=0.5)
        )
        ax.text(middle, row * ROW + BOX / 2, label, fontsize=9.5, color=ink_on(colour), **words)
        number = f"{score:+z.2f}" if found.is_signed else f"{score:.2f}"
        ax.text(middle, row * ROW + BOX + 0.1, number, fontsize=6.5, **words)


def _places(labels: list[str], across: float) -> tuple[list[tuple[float, int, float]], int]:
    """Left side, row and width of each box."""
    places: list[tuple[float, int, float]] = []
    x, row = SIDE, 0
    for label in labels:
        width = max(SIGN * len(label) + PADDING, NARROWEST)
        if x + width > across - SIDE and x > SIDE:
            x, row = SIDE, row + 1
        places.append((x, row, width))
        x += width + GAP
    return places, row + 1


def _scale(figure: Figure, found: Attribution, height: float) -> None:
    largest = float(found.scores.abs().max()) or 1.0
    stops = DIVERGING if found.is_signed else SEQUENTIAL
    bar = axes_at(figure, SIDE + 0.15, height - 0.5, 1.6, 0.12)
    bar.imshow([[index / 99 for index in range(100)]], aspect="auto", cmap=colour_map(stops))
    low = f"{-largest:.2f}" if found.is_signed else "0"
    bar.set_xticks([0, 99], [low, f"{largest:.2f}"], fontsize=7)
    bar.set_yticks([])
    bar.tick_params(length=2)
    unit = "share of attention" if found.method == "attention_rollout" else found.objective
    words = [f"score, in units of the {unit}" if unit == found.objective else unit]
    if found.is_signed:
        words.append(found.sum_text())
    write(figure, 2.15, height - 0.44, "\n".join(words), fontsize=7.5, va="center", wrap=True)


POSITION_TOP, POSITION_MARGIN = 0.5, 0.15


@in_house_style
def position_figure(pipeline: Pipeline, position: int, top_k: int) -> Figure:
    """What every layer would predict after one token; without a lens, what the model predicts."""
    lens = pipeline.output.lens
    grid = (
        _predictions(pipeline, position, top_k)
        if lens is None
        else position_grid(pipeline, lens, position, top_k)
    )
    width, height = grid_size(grid)
    size = max(width, 5.0) + 2 * POSITION_MARGIN, POSITION_TOP + height + POSITION_MARGIN
    figure = Sheet(figsize=size)
    text = visible(pipeline.tokens.texts[position])
    title(figure, f"{pipeline.provenance.model} after token {position}, {text}")
    draw_grid(figure, grid, POSITION_MARGIN, POSITION_TOP)
    return figure


def _predictions(pipeline: Pipeline, position: int, top_k: int) -> TokenGrid:
    """What the model predicts there, rank by rank, of the grid of all positions."""
    whole = output_grid(pipeline)
    return TokenGrid(
        title=whole.title,
        corner="",
        columns=tuple((str(rank), "rank") for rank in range(1, top_k + 1)),
        rows=("the model",),
        cells=(tuple(replace(row[position], is_framed=False) for row in whole.cells[:top_k]),),
        framed="",
    )


PIPELINE_TOP, BETWEEN, PIPELINE_MARGIN, NAMES = 0.5, 0.4, 0.15, 0.75
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
    height = PIPELINE_TOP + patterns + BETWEEN + norms + grid_height + PIPELINE_MARGIN
    figure = Sheet(figsize=(width + 2 * PIPELINE_MARGIN, height))
    title(figure, f"From text to prediction: {pipeline.title()}")
    _patterns(figure, pipeline, PIPELINE_TOP)
    if norms:
        _norms(figure, pipeline, PIPELINE_TOP + patterns + 0.1)
    draw_grid(figure, grid, PIPELINE_MARGIN, PIPELINE_TOP + patterns + BETWEEN + norms)
    return figure


def _patterns(figure: Figure, pipeline: Pipeline, y: float) -> None:
    stage = pipeline.attention
    heading(figure, PIPELINE_MARGIN, y, _attention_heading(pipeline))
    for row, layer in enumerate(stage.layers):
        for head in range(stage.patterns.shape[1]):
            left = PIPELINE_MARGIN + NAMES + head * PATTERN_ROOM
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
    left = PIPELINE_MARGIN + 0.35 + 0.082 * len(_attention_heading(pipeline))
    for label in [*(name for name in LABELS if name in carried), *sorted(carried - set(LABELS))]:
        write(figure, left, y + 0.15, "■", fontsize=7.5, color=LABELS.get(label, ink()))
        write(figure, left + 0.13, y + 0.15, label, fontsize=7.5)
        left += 0.25 + 0.072 * len(label)


def _norms(figure: Figure, pipeline: Pipeline, y: float) -> None:
    stage = pipeline.mlp
    name = "MLP output over the residual stream, by length"
    heading(figure, PIPELINE_MARGIN, y, name)
    n_tokens = len(pipeline.tokens.texts)
    size = (n_tokens * CELL, len(stage.layers) * CELL)
    ax = axes_at(figure, PIPELINE_MARGIN + NAMES, y + HEADING, *size)
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
    bar = axes_at(figure, PIPELINE_MARGIN + NAMES + size[0] + 0.1, y + HEADING, 0.09, size[1])
    figure.colorbar(drawn, cax=bar).ax.tick_params(labelsize=6, length=2)


TREE_TOP, TREE_FOOT, MARGIN = 0.55, 0.45, 0.15
INCHES = TreeScale(sign=0.078, padding=0.14, gap=0.28, box=0.22, lane=0.3, outcome=0.85)


@in_house_style
def generation_figure(generation: Generation) -> Figure:
    """The tree of beams, where there are several, over the best sequence's alternatives."""
    grid = alternatives_grid(generation, 0)
    width, height = grid_size(grid)
    tree = placed_tree(generation, INCHES) if generation.num_beams > 1 else None
    top = TREE_TOP
    if tree is not None:
        width, top = max(width, tree.width), TREE_TOP + tree.height + TREE_FOOT
    figure = Sheet(figsize=(max(width, 5.0) + 2 * MARGIN, top + height + MARGIN))
    title(figure, generation.title())
    if tree is not None:
        _draw_tree(axes_at(figure, MARGIN, TREE_TOP, tree.width, tree.height), tree)
    draw_grid(figure, grid, MARGIN, top)
    return figure


def _draw_tree(ax: Axes, tree: Tree) -> None:
    over = (INCHES.lane - INCHES.box) / 2
    ax.set(xlim=(0, tree.width), ylim=(tree.height - over, -over))
    ax.axis("off")
    strokes = {"dropped": (line(), 0.7), "best": (FRAME, 1.6), "kept": (muted_text(), 1.0)}
    for each in reversed(tree.boxes):
        curve = Path(each.edge, [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4])
        edge, stroke = strokes[each.node.kind]
        ax.add_patch(PathPatch(curve, facecolor="none", edgecolor=edge, linewidth=stroke))
    _box(ax, (0.0, 0.0, tree.first_width), tree.first, background(), muted_text(), 0.8)
    for each in tree.boxes:
        node, place = each.node, (each.left, each.top, each.width)
        edge, stroke = strokes[node.kind]
        colour = shade(node.probability, SEQUENTIAL)
        _box(ax, place, node.text, colour, edge, 2.0 if node.ended else stroke)
        if node.outcome:
            right, middle = each.left + each.width + 0.06, each.top + INCHES.box / 2
            ax.text(right, middle, node.outcome, fontsize=7.5, va="center")


def _box(
    ax: Axes,
    place: tuple[float, float, float],
    text: str,
    colour: str,
    edge: str,
    stroke: float,
) -> None:
    left, top, width = place
    style = "round,pad=0,rounding_size=0.03"
    look: dict[str, Any] = {"facecolor": colour, "edgecolor": edge, "linewidth": stroke}
    ax.add_patch(FancyBboxPatch((left, top), width, INCHES.box, boxstyle=style, **look))
    ax.text(
        left + width / 2,
        top + INCHES.box / 2,
        text,
        fontsize=7.5,
        ha="center",
        va="center",
        color=ink() if colour == background() else ink_on(colour),
        parse_math=False,
    )
