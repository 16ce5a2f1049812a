"""What the distribution scores need to know of a row of attention: a few numbers, not the row.

`PatternRows` reads them off whole patterns. `RowFigures` holds them where the rows were seen block
by block and are gone. Formulas take either.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_toolkit.sight import Sight, looks_ahead

BLOCK = 128
"""Queries that are read together where whole rows are needed."""

MIN_NON_SINK_MASS = 0.05
"""A row with less attention than this off position 0 says nothing of where a head looks."""


@runtime_checkable
class Rows(Protocol):
    """The rows of attention of one or several sequences in one layer."""

    @property
    def window(self) -> Sight:
        """What the layer sees: a sliding window in keys, None for all of them, or a square."""
        ...

    @property
    def non_sink_mass(self) -> Float[Tensor, "*rows query"]:
        """The attention off position 0."""
        ...

    @property
    def mean_key(self) -> Float[Tensor, "*rows query"]:
        """The mean position attended to; a key ahead counts at its mirror image, as far before."""
        ...

    @property
    def own(self) -> Float[Tensor, "*rows query"]:
        """The attention on the query's own position."""
        ...

    @property
    def entropy(self) -> Float[Tensor, "*rows query"]:
        """In nats."""
        ...

    def variation(self, following: Rows) -> Float[Tensor, "*rows query"]:
        """Total variation between these rows and those of another sequence, the sink apart."""
        ...


def eligible(rows: Rows) -> Bool[Tensor, "*rows query"]:
    """The rows with enough attention off the sink to say where it goes."""
    return rows.non_sink_mass >= MIN_NON_SINK_MASS


def per_mass(non_sink_mass: Float[Tensor, "*rows query"]) -> Float[Tensor, "*rows query"]:
    """What scales a row's attention off position 0 to 1; unusable for rows not eligible."""
    return 1 / non_sink_mass.clamp_min(MIN_NON_SINK_MASS)


def query_positions(figures: Float[Tensor, "*rows query"]) -> Float[Tensor, " query"]:
    """The positions of the queries on the last axis."""
    return torch.arange(figures.shape[-1], dtype=figures.dtype, device=figures.device)


@dataclass(frozen=True, kw_only=True, eq=False)
class RowFigures:
    """The numbers of the rows of several sequences; 0 where nobody asked for them."""

    non_sink_mass: Float[Tensor, "sequence head query"]
    mean_key: Float[Tensor, "sequence head query"]
    own: Float[Tensor, "sequence head query"]
    entropy: Float[Tensor, "sequence head query"]

    to_other: Float[Tensor, "sequence head query"]
    """The total variation to the sequence that each is compared with."""

    window: Sight

    def variation(self, following: Rows) -> Float[Tensor, "sequence head query"]:
        """Total variation between each sequence's rows and those of the one it is compared with."""
        return self.to_other


@dataclass(frozen=True, kw_only=True, eq=False)
class PatternRows:
    """Whole patterns of one layer, and what several scores need of them."""

    patterns: Float[Tensor, "*heads query key"]
    """Attention after softmax, without padding."""

    window: Sight
    """What the layer sees: a sliding window in keys, None for all of them, or a square."""

    @cached_property
    def non_sink_mass(self) -> Float[Tensor, "*heads query"]:
        """The attention off position 0."""
        return self.patterns[..., 1:].sum(dim=-1)

    @cached_property
    def mean_key(self) -> Float[Tensor, "*heads query"]:
        """The mean position attended to, over all of the attention."""
        return mean_key(self.patterns, query_positions(self.patterns), self.window)

    @property
    def own(self) -> Float[Tensor, "*heads query"]:
        """The attention on the query's own position."""
        return self.patterns.diagonal(dim1=-2, dim2=-1)

    @cached_property
    def entropy(self) -> Float[Tensor, "*heads query"]:
        """In nats."""
        return torch.cat([row_entropy(block) for _, block in self.causal_blocks()], dim=-1)

    @property
    def eligible(self) -> Bool[Tensor, "*heads query"]:
        """The rows with enough attention off the sink to say where it goes."""
        return eligible(self)

    def variation(self, following: Rows) -> Float[Tensor, "*heads query"]:
        """Total variation between these rows and another sequence's; 0 where one has no row."""
        assert isinstance(following, PatternRows)
        here, there = per_mass(self.non_sink_mass), per_mass(following.non_sink_mass)
        found = torch.zeros_like(here)
        for (queries, block), (_, other) in zip(
            self.causal_blocks(), following.causal_blocks(), strict=False
        ):
            stop = queries.start + min(block.shape[-2], other.shape[-2])
            n_keys = min(block.shape[-1], other.shape[-1])
            rows, keys = slice(0, stop - queries.start), slice(1, n_keys)
            both = slice(queries.start, stop)
            difference = block[..., rows, keys] * here[..., both, None]
            difference -= other[..., rows, keys] * there[..., both, None]
            found[..., both] = difference.abs_().sum(dim=-1) / 2
        return found

    def causal_blocks(self) -> Iterator[tuple[slice, Float[Tensor, "*heads block key"]]]:
        """The rows in blocks of queries, each without the keys that none of its queries can see.

        Half the work of the whole square, and temporaries of one block.
        """
        n_queries = self.patterns.shape[-2]
        for start in range(0, n_queries, BLOCK):
            stop = min(start + BLOCK, n_queries)
            n_keys = n_queries if looks_ahead(self.window) else stop
            yield slice(start, stop), self.patterns[..., start:stop, :n_keys]


def mean_key(
    patterns: Float[Tensor, "*rows query key"],
    position: Float[Tensor, " key"],
    sight: Sight,
    *,
    first_query: int = 0,
) -> Float[Tensor, "*rows query"]:
    """The mean of the positions of all keys; those ahead of a query mirrored to before it."""
    if not looks_ahead(sight):
        return patterns @ position
    n_queries = patterns.shape[-2]
    query = torch.arange(first_query, first_query + n_queries).to(position)[:, None]
    return (patterns * torch.where(position > query, 2 * query - position, position)).sum(dim=-1)


def row_entropy(patterns: Float[Tensor, "*heads query key"]) -> Float[Tensor, "*heads query"]:
    """Entropy of each row, in nats."""
    smallest = torch.finfo(patterns.dtype).tiny
    # A zero's share is 0 · log(tiny) = 0. `torch.special.entr` takes three times as long.
    negative: Tensor = torch.linalg.vecdot(patterns, patterns.clamp_min(smallest).log_())
    return -negative
