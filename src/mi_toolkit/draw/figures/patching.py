"""Patching as maps, and the edges between parts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from mi_toolkit.core.head import Head
from mi_toolkit.draw.figures.grids import (
    BOTTOM,
    CELL_HEIGHT,
    CELL_WIDTH,
    LEFT,
    TOP,
    draw_values,
    panel_size,
    value_map,
)
from mi_toolkit.draw.figures.style import (
    Sheet,
    axes_at,
    background,
    in_house_style,
    line,
    muted_text,
    title,
)
from mi_toolkit.draw.primitives import DIVERGING, visible
from mi_toolkit.interventions.direct_attribution import DirectAttribution
from mi_toolkit.interventions.gradient_patching import AttributionPatching, EdgeAttribution
from mi_toolkit.interventions.patching import Patching

HEAD, TOKENS_FOOT = 0.5, 0.95


@in_house_style
def patching_map(found: Patching, ax: Axes | None = None) -> Axes:
    """The share of the difference that each clean activation brings back.

    Args:
        found: of `activation_patching`.
        ax: axes to draw in; None for a figure of its own, which is `ax.figure`.
    """
    n_layers = found.values.shape[0]
    tokens = found.place == "position"
    columns = _tokens(found.places) if tokens else list(found.places)
    if ax is None:
        foot = TOKENS_FOOT if tokens else 0.45
        ax = _own_axes(found.title(), n_layers, len(columns), foot=foot)
    draw_values(
        ax,
        found.recovered,
        title=f"share of the {found.metric} brought back",
        rows=[str(layer) for layer in range(n_layers)],
        columns=columns,
        across="" if tokens else found.place.replace("_", " "),
    )
    return ax


@in_house_style
def attribution_maps(found: AttributionPatching) -> Figure:
    """The estimates by head, summed over positions, and by position, heads of a layer summed."""
    n_layers, n_heads, n_positions = found.heads.shape
    rows = [str(layer) for layer in range(n_layers)]
    head_width, head_height = panel_size(n_layers, n_heads)
    width, height = panel_size(n_layers, n_positions, foot=TOKENS_FOOT)
    figure = Sheet(figsize=(max(width, head_width, 6.8), HEAD + head_height + 2 * height))
    title(figure, found.title())
    value_map(
        figure,
        (0.0, HEAD),
        found.heads.sum(dim=-1),
        title=f"{found.metric}: by head, all positions together",
        rows=rows,
        columns=[str(head) for head in range(n_heads)],
        across="head",
    )
    by_position = {
        "by token, all heads of a layer together": found.heads.sum(dim=1),
        "by token, MLPs": found.mlps,
    }
    for place, (name, values) in enumerate(by_position.items()):
        value_map(
            figure,
            (0.0, HEAD + head_height + place * height),
            values,
            title=name,
            rows=rows,
            columns=_tokens(found.positions),
            across="",
        )
    return figure


@in_house_style
def direct_map(found: DirectAttribution, ax: Axes | None = None) -> Axes:
    """What each head writes, and next to them attention's bias and the MLP of each layer.

    Args:
        found: of `direct_logit_attribution`.
        ax: axes to draw in; None for a figure of its own, which is `ax.figure`.
    """
    n_layers, n_heads = found.heads.shape
    values = torch.cat([found.heads, found.attention_biases[:, None], found.mlps[:, None]], dim=1)
    if ax is None:
        ax = _own_axes(found.title(), n_layers, n_heads + 2)
    draw_values(
        ax,
        values,
        title=(
            f"logit {found.logit:+z.2f} = these, embedding {found.embedding:+z.2f}, constant "
            f"{found.constant:+z.2f}"
        ),
        rows=[str(layer) for layer in range(n_layers)],
        columns=[*(str(head) for head in range(n_heads)), "b", "M"],
        across="head; b: attention's bias; M: MLP",
    )
    return ax


def _own_axes(heading: str, n_rows: int, n_columns: int, *, foot: float = BOTTOM) -> Axes:
    """Axes of a map with a heading, on a figure of their own."""
    width, height = panel_size(n_rows, n_columns, foot=foot)
    figure = Sheet(figsize=(max(width, 6.8), HEAD + height))
    title(figure, heading)
    size = (n_columns * CELL_WIDTH, n_rows * CELL_HEIGHT)
    return axes_at(figure, LEFT, HEAD + TOP, *size)


def _tokens(places: tuple[str, ...]) -> list[str]:
    return [visible(text, longest=14) for text in places]


RAISES, LOWERS = DIVERGING[-3], DIVERGING[2]
SLOT, RISE = 0.62, 0.62
EDGES_LEFT, EDGE_HEAD, FOOT, RIGHT = 0.9, 0.85, 0.5, 0.2
NARROWEST = 6.0
ENTRY = {"q": -0.17, "k": 0.0, "v": 0.17}
"""Where a head's query, key and value are entered, in inches from its middle."""


@dataclass(frozen=True)
class _Node:
    """A part at a position, and where it is drawn."""

    part: str
    position: int
    x: float
    y: float


@in_house_style
def edge_figure(found: EdgeAttribution, n: int = 20, ax: Axes | None = None) -> Axes:
    """The strongest paths: embedding below, logits above, each token's parts in a column.

    Purple would raise the metric, orange lower it; the width of an arrow is the size of its
    estimate next to the largest. It enters a head at its query (q), key (k) or value (v). What
    attention moves from one token to another is inside a head, so no arrow leaves its column.

    Args:
        found: of `edge_attribution`.
        n: how many paths, by size.
        ax: axes to draw in; None for a figure of its own, which is `ax.figure`.
    """
    order = found.scores.abs().argsort(descending=True)[:n].tolist()
    edges = [
        (found.writers[index], *_part_and_entry(found.readers[index]), int(found.at[index]))
        for index in order
    ]
    named = [node for w, r, _, at in edges for node in ((w, at), (r, at))]
    nodes = _placed(list(dict.fromkeys(named)))
    width = max((node.x for node in nodes.values()), default=0.0) + SLOT / 2
    height = max((node.y for node in nodes.values()), default=0.0) + RISE / 2
    if ax is None:
        across = EDGES_LEFT + max(width, NARROWEST - EDGES_LEFT) + RIGHT
        figure = Sheet(figsize=(across, EDGE_HEAD + height + FOOT))
        title(figure, found.title())
        ax = axes_at(figure, EDGES_LEFT, EDGE_HEAD, width, height)
    ax.set(xlim=(0, width), ylim=(0, height))
    ax.set_title(f"{found.metric}: the {len(edges)} strongest", parse_math=False)
    _name(ax, found, nodes)
    most = float(found.scores.abs().max()) if len(found.scores) else 1.0
    for index, (writer, reader, entry, at) in zip(order, edges, strict=True):
        score = float(found.scores[index])
        _arrow(ax, nodes[writer, at], nodes[reader, at], entry, score / (most or 1.0))
    return ax


def _part_and_entry(reader: str) -> tuple[str, str]:
    part, _, entry = reader.partition(" ")
    return part, entry


def _depth(part: str) -> tuple[int, int]:
    """From the embedding to the logits."""
    if part in ("embedding", "logits"):
        return (-1, 0) if part == "embedding" else (10**9, 0)
    if part.endswith(".mlp"):
        return int(part[1:].removesuffix(".mlp")), 1
    return Head.of(part).layer, 0


def _placed(named: list[tuple[str, int]]) -> dict[tuple[str, int], _Node]:
    """A row to each depth, a column to each position, as wide as its fullest row."""
    rows = {depth: row for row, depth in enumerate(sorted({_depth(part) for part, _ in named}))}
    nodes: dict[tuple[str, int], _Node] = {}
    left = 0.0
    for position in sorted({position for _, position in named}):
        here = [part for part, at in named if at == position]
        by_row = {row: sorted(p for p in here if rows[_depth(p)] == row) for row in rows.values()}
        across = max(map(len, by_row.values()))
        for row, parts in by_row.items():
            for place, part in enumerate(parts):
                x = left + SLOT * (place + 0.5 + (across - len(parts)) / 2)
                nodes[part, position] = _Node(part, position, x, RISE * (row + 0.5))
        left += SLOT * (across + 0.35)
    return nodes


def _name(ax: Axes, found: EdgeAttribution, nodes: dict[tuple[str, int], _Node]) -> None:
    for node in nodes.values():
        ax.text(
            node.x,
            node.y,
            {"embedding": "emb"}.get(node.part, node.part),
            ha="center",
            va="center",
            fontsize=7,
            zorder=3,
            bbox={"boxstyle": "round,pad=0.25", "facecolor": background(), "edgecolor": line()},
        )
    columns: dict[int, list[float]] = {}
    for node in nodes.values():
        columns.setdefault(node.position, []).append(node.x)
    middles = [(min(xs) + max(xs)) / 2 for xs in columns.values()]
    texts = [visible(found.positions[position], longest=14) for position in columns]
    ax.set_xticks(middles, texts, fontsize=8, parse_math=False)
    ax.set_yticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def _arrow(ax: Axes, writer: _Node, reader: _Node, entry: str, share: float) -> None:
    """From above the writer to below the reader, bent past what stands between them."""
    x = reader.x + ENTRY.get(entry, 0.0)
    start, end = (writer.x, writer.y + 0.12), (x, reader.y - 0.14)
    bend = 0.0 if reader.y - writer.y < 1.5 * RISE else 0.18
    colour = RAISES if share > 0 else LOWERS
    ax.add_patch(
        FancyArrowPatch(
            start,
            end,
            connectionstyle=f"arc3,rad={bend}",
            arrowstyle="-|>",
            mutation_scale=7,
            linewidth=0.5 + 3.0 * abs(share),
            color=colour,
            shrinkA=0,
            shrinkB=0,
            zorder=2,
        )
    )
    if entry:
        beside = (x + 0.05, reader.y - 0.26)
        ax.text(*beside, entry, fontsize=6, color=muted_text(), ha="left", va="center", zorder=4)
