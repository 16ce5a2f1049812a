"""Where the scores of weights lie: by head and by matrix."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure

from mi_toolkit.views.figures.sheet import title
from mi_toolkit.views.figures.value_map import panel_size, value_map

HEAD, FOOT = 0.5, 0.7

Row = Mapping[Any, Any]


def weight_maps(name: str, heads: Sequence[Row], layers: Sequence[Row]) -> Figure:
    """Shares of all scores in percent, layers downwards: heads across, and matrices across.

    Args:
        name: the picture's title.
        heads: rows of `WeightScores.by_head`, or none.
        layers: rows of `WeightScores.by_layer`.
    """
    maps = [
        _grid([(row["layer"], row["head"], row["share"]) for row in heads]),
        _grid(
            [
                (int(row["layer"]), row["component"], row["share"])
                for row in layers
                if str(row["layer"]) != "<NA>"
            ]
        ),
    ]
    drawn = [
        (each, across, panel_size(len(each[0]), len(each[1]), foot=FOOT))
        for each, across in zip(maps, ("head", "matrix"), strict=True)
        if each[0]
    ]
    width = sum(size[0] for *_, size in drawn)
    height = HEAD + max(size[1] for *_, size in drawn)
    figure = Figure(figsize=(max(width, 0.4 + 0.105 * len(name)), height))
    title(figure, name)
    x = 0.0
    for (rows, columns, values), across, size in drawn:
        value_map(
            figure,
            (x, HEAD),
            values,
            title="share of all scores (%)",
            rows=rows,
            columns=columns,
            across=across,
        )
        x += size[0]
    return figure


def _grid(cells: Sequence[tuple[int, Any, float]]) -> tuple[list[str], list[str], torch.Tensor]:
    rows = list(dict.fromkeys(layer for layer, _, _ in cells))
    columns = list(dict.fromkeys(column for _, column, _ in cells))
    values = torch.full((len(rows), len(columns)), math.nan)
    for layer, column, share in cells:
        values[rows.index(layer), columns.index(column)] = share * 100
    return [str(row) for row in rows], [str(column) for column in columns], values
