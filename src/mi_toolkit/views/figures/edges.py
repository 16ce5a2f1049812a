"""Paths between parts: the strongest of an `EdgeAttribution`, as a circuit, a column per token."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from mi_toolkit.heads.head import Head
from mi_toolkit.interventions.patching import EdgeAttribution
from mi_toolkit.views.colours import DIVERGING
from mi_toolkit.views.figures.sheet import axes_at, title
from mi_toolkit.views.figures.style import in_house_style, line, paper_colour, soft_ink
from mi_toolkit.views.tokens import visible

RAISES, LOWERS = DIVERGING[-3], DIVERGING[2]
SLOT, RISE = 0.62, 0.62
LEFT, HEAD, FOOT, RIGHT = 0.9, 0.85, 0.5, 0.2
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
    estimate beside the largest. It enters a head at its query (q), key (k) or value (v). What
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
        across = LEFT + max(width, NARROWEST - LEFT) + RIGHT
        figure = Figure(figsize=(across, HEAD + height + FOOT))
        title(figure, found.title())
        ax = axes_at(figure, LEFT, HEAD, width, height)
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
            bbox={"boxstyle": "round,pad=0.25", "facecolor": paper_colour(), "edgecolor": line()},
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
        ax.text(*beside, entry, fontsize=6, color=soft_ink(), ha="left", va="center", zorder=4)
