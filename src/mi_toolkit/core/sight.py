"""What the queries of a layer may see: all keys up to their own, a window of them, or any square.

Pure tensors: scores and targets ask it, models are not known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Square:
    """A mask that is no causal window: chunks, a prefix, both directions."""

    seen: Bool[Tensor, "query key"]
    """True where the query may see the key; for shorter sequences, its upper left corner."""

    @cached_property
    def looks_ahead(self) -> bool:
        """Whether some query sees a key after its own position."""
        return bool(self.seen.triu(1).any())


Sight = int | None | Square
"""A causal window in keys, the query's own included; None for all keys up to it; or a square."""


def looks_ahead(sight: Sight) -> bool:
    """Whether some query sees what comes later."""
    return isinstance(sight, Square) and sight.looks_ahead


def sees(
    sight: Sight, query: Int[Tensor, "*cell"], key: Int[Tensor, "*cell"]
) -> Bool[Tensor, "*cell"]:
    """Whether each query may see the key next to it."""
    if isinstance(sight, Square):
        return sight.seen[query, key]
    before = key <= query
    return before if sight is None else before & (key > query - sight)


def visible_keys(n_positions: int, sight: Sight) -> Float[Tensor, " query"]:
    """`|K(q)|`: how many keys each query may see."""
    if isinstance(sight, Square):
        return sight.seen[:n_positions, :n_positions].sum(dim=-1).float()
    count = torch.arange(1, n_positions + 1, dtype=torch.float32)
    return count if sight is None else count.clamp_max(sight)
