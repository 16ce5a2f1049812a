"""What activations there are, in words: names, axes and sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from mi_toolkit.activations.names import fold

MEGABYTE = 10**6


def rows_of(
    sizes: Mapping[str, Mapping[str, int]], dtype: torch.dtype, n_layers: int
) -> list[tuple[str, str, str, str]]:
    """A row for each hook, and one for a hook that several layers have.

    Args:
        sizes: axes with their sizes, by hook name.
        dtype: of the values.
        n_layers: layers of the model, to say where all of them are there.
    """
    groups: dict[str, list[str]] = {}
    for hook in sizes:
        groups.setdefault(fold(hook), []).append(hook)
    rows = []
    for folded, hooks in groups.items():
        axes = sizes[hooks[0]]
        n_bytes = sum(math.prod(sizes[hook].values()) for hook in hooks) * dtype.itemsize
        rows.append(
            (
                _which(folded, hooks, n_layers),
                ", ".join(f"{axis} {size:,}" for axis, size in axes.items()),
                str(dtype).removeprefix("torch."),
                f"{n_bytes / MEGABYTE:,.2f} MB",
            )
        )
    return rows


def _which(folded: str, hooks: list[str], n_layers: int) -> str:
    if len(hooks) == 1:
        return hooks[0]
    layers = [hook.split(".")[1] for hook in hooks]
    return f"{folded} ({'all layers' if len(hooks) == n_layers else ', '.join(layers)})"
