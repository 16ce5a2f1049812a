"""Activations as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mi_toolkit.activations.names import Name, is_pattern
from mi_toolkit.activations.statistics import PLACES
from mi_toolkit.core.errors import ActivationsError, UnknownNameError

if TYPE_CHECKING:
    from mi_toolkit.activations.activations import Activations
    from mi_toolkit.activations.statistics import ActivationStatistics

LARGEST_TABLE = 10_000_000


def token_table(activations: Activations) -> pd.DataFrame:
    """What each recorded token is: prompt, position, token id and text."""
    prompts, positions, _ = (cells.tolist() for cells in activations.chosen.cells())
    return pd.DataFrame(
        {
            "prompt": prompts,
            "position": positions,
            "token_id": activations.token_ids[activations.mask].numpy(),
            "token": [activations.texts[i][p] for i, p in zip(prompts, positions, strict=True)],
        }
    )


def activation_table(activations: Activations, name: Name) -> pd.DataFrame:
    """One activation: a row per token and a column per unit, or a pattern's long form."""
    n_values = activations[name].numel()
    if n_values > LARGEST_TABLE:
        raise ActivationsError(
            f"{name!r} has {n_values:,} values, and a table is for {LARGEST_TABLE:,} at "
            "most. Take activations.rows(name).numpy() and activations.row_table(), or record less."
        )
    if is_pattern(activations.names(name)[0]):
        return _pattern_table(activations, name)
    rows = activations.rows(name)
    width = rows.shape[1:]
    units = pd.DataFrame(
        rows.flatten(start_dim=1).float().numpy(),
        columns=[".".join(map(str, unit)) for unit in np.ndindex(*width)],
    )
    return pd.concat([token_table(activations), units], axis=1)


def _pattern_table(activations: Activations, name: Name) -> pd.DataFrame:
    pattern = activations[name]
    if activations.chosen.single:
        pattern = pattern.unsqueeze(2)
    prompts, positions, slots = (cells.numpy() for cells in activations.chosen.cells())
    values = pattern.float().numpy()[prompts, :, slots]
    n_rows, n_heads, n_keys = values.shape
    row, head, key = (axis.ravel() for axis in np.indices((n_rows, n_heads, n_keys)))
    table = pd.DataFrame(
        {
            "prompt": prompts[row],
            "head": head,
            "query": positions[row],
            "key": key,
            "value": values.ravel(),
        }
    )
    # A query sees no later key, and no padding.
    seen = (table["key"] <= table["query"]).to_numpy()
    return table.loc[seen].reset_index(drop=True)


def index_table(columns: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """The index of a store, a row per row."""
    return pd.DataFrame(dict(columns))


def examples_table(
    statistics: ActivationStatistics, hook: str, unit: int | tuple[int, ...]
) -> pd.DataFrame:
    """The top examples of one unit, best first."""
    figures, before = statistics.units[hook], statistics.before
    shape = tuple(figures.moments.mean.shape)
    index = (unit,) if isinstance(unit, int) else tuple(unit)
    if len(index) != len(shape) or not all(0 <= i < n for i, n in zip(index, shape, strict=True)):
        raise UnknownNameError(
            f"{hook} has no unit {unit}: its units have {len(shape)} number(s), each below "
            f"{' and '.join(map(str, shape))}."
        )
    row = int(np.ravel_multi_index(index, shape))
    values, place, context = (
        part[row] for part in (figures.top.values, figures.top.place, figures.top.context)
    )
    there = (place[:, 0] >= 0).nonzero().squeeze(1)
    words = [[statistics.texts.get(token, "") for token in ids] for ids in context[there].tolist()]
    return pd.DataFrame(
        {
            "value": values[there].numpy(),
            **{name: place[there, column].numpy() for column, name in enumerate(PLACES)},
            "before": ["".join(each[:before]) for each in words],
            "token": [each[before] for each in words],
            "after": ["".join(each[before + 1 :]) for each in words],
        }
    )
