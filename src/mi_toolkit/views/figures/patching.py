"""Patching as maps: what each layer brings back, where, and what each part writes."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mi_toolkit.interventions.patching import AttributionPatching, DirectAttribution, Patching
from mi_toolkit.views.figures.sheet import axes_at, title
from mi_toolkit.views.figures.style import in_house_style
from mi_toolkit.views.figures.value_map import (
    BOTTOM,
    CELL_HEIGHT,
    CELL_WIDTH,
    LEFT,
    TOP,
    draw_values,
    panel_size,
    value_map,
)
from mi_toolkit.views.tokens import visible

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
    figure = Figure(figsize=(max(width, head_width, 6.8), HEAD + head_height + 2 * height))
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
    """What each head writes, and beside them attention's bias and the MLP of each layer.

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
            f"logit {found.logit:+.2f} = these, embedding {found.embedding:+.2f}, constant "
            f"{found.constant:+.2f}"
        ),
        rows=[str(layer) for layer in range(n_layers)],
        columns=[*(str(head) for head in range(n_heads)), "b", "M"],
        across="head; b: attention's bias; M: MLP",
    )
    return ax


def _own_axes(heading: str, n_rows: int, n_columns: int, *, foot: float = BOTTOM) -> Axes:
    """Axes of a map with a heading, on a figure of their own."""
    width, height = panel_size(n_rows, n_columns, foot=foot)
    figure = Figure(figsize=(max(width, 6.8), HEAD + height))
    title(figure, heading)
    size = (n_columns * CELL_WIDTH, n_rows * CELL_HEIGHT)
    return axes_at(figure, LEFT, HEAD + TOP, *size)


def _tokens(places: tuple[str, ...]) -> list[str]:
    return [visible(text, longest=14) for text in places]
