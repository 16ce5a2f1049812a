"""Rows of a store as a PyTorch `Dataset`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from mi_toolkit.activations.store.reader import ActivationStore


class ActivationDataset(Dataset[Any]):
    """Rows of one activation. An item is a row's values, or what `transform` makes of them.

    A `DataLoader` fetches a batch in one go; each of its workers maps the shards for itself,
    forked or spawned.
    """

    def __init__(
        self,
        store: ActivationStore,
        hook: str,
        *,
        rows: Int[Tensor, " row"] | None = None,
        transform: Callable[[Tensor], Any] | None = None,
    ) -> None:
        self.store, self.hook, self.transform = store, hook, transform
        self.rows = torch.arange(len(store)) if rows is None else rows
        """The row of the store that each item is."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        """One row."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"This dataset has {len(self)} rows, and no {index}.")
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Several rows at once: how a `DataLoader` asks for a batch."""
        values = self.store.read(self.hook, self.rows[list(indices)])
        return [each if self.transform is None else self.transform(each) for each in values]
