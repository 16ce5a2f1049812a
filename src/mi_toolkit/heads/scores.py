"""Scores of attention patterns: pure functions on tensors, which know no model.

Mask behaviours have one score, the attention on their target keys (`block_figures`). Distribution
behaviours ask where a row's attention lies as a whole; each is a function of the `Rows` of a
sequence (and of one that it is compared with, where the score compares) that gives, per head and
query, a numerator and a denominator; the behaviour's value is the ratio of their sums.

What the distribution scores need to know of a row of attention: a few numbers, not the row.

`PatternRows` reads them off whole patterns. `RowFigures` holds them where the rows were seen block
by block and are gone. Formulas take either.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol, Self, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_toolkit.core.sight import Sight, looks_ahead, visible_keys

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

    def variation(self, following: Self) -> Float[Tensor, "*rows query"]:
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

    def variation(self, following: Self) -> Float[Tensor, "sequence head query"]:
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

    def variation(self, following: Self) -> Float[Tensor, "*heads query"]:
        """Total variation between these rows and another sequence's; 0 where one has no row."""
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


FIRST_LOCALITY_QUERY = 3
FIRST_POSITIONAL_QUERY = 2
FIRST_DIFFUSE_QUERY = 8


def top_share(
    patterns: Float[Tensor, "*heads query key"],
) -> Float[Tensor, "*heads query key"]:
    """1 on the key that each query attends to most, 0 elsewhere; keys that tie share the 1.

    A mask's score on it is how often the key attended most is a target; uniform attention, whose
    keys all tie, is at chance.

    >>> top_share(torch.tensor([[0.2, 0.7, 0.1], [0.4, 0.4, 0.2]]))
    tensor([[0.0000, 1.0000, 0.0000],
            [0.5000, 0.5000, 0.0000]])
    """
    top = patterns == patterns.amax(dim=-1, keepdim=True)
    # A row that uniform attention fills has zeros after its query, which never tie with the rest.
    return top / top.sum(dim=-1, keepdim=True)


def lift(score: Float[Tensor, "*shape"], null: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """`(score - null) / (1 - null)`: 0 is chance and 1 is perfect, whatever the prompt's length.

    NaN where chance is perfect already, so that no head could be told apart.

    >>> lift(torch.tensor([0.55, 1.0]), torch.tensor([0.1, 0.1]))
    tensor([0.5000, 1.0000])
    """
    above = (score - null) / (1 - null)
    return torch.where(null < 1, above, torch.nan)


class QueryTerms(NamedTuple):
    """What each query adds to the numerator and denominator of a value."""

    numerator: Float[Tensor, "*rows query"]
    denominator: Float[Tensor, "*rows query"]


def locality_terms(rows: Rows, following: Rows | None = None) -> QueryTerms:
    """How near a head looks: `1 - ΣΣ A'[q,k]·d / ΣΣ U[q,k]·d`, with `d = max(0, q-k-1)`.

    `U` is uniform attention over all causal keys but the sink, never the window alone: a windowed
    layer *is* local. 1 for a current- or previous-token head at any length, 0 for uniform
    attention, below 0 for farther than chance. Over rows `q >= 3`; a ratio of sums, so that long
    rows, where near and far differ most, weigh most. Where a layer looks ahead,
    `d = max(0, |q-k| - 1)` and `U` spreads over both sides.
    """
    mass = rows.non_sink_mass
    query = query_positions(mass)
    distance = ((query - 1) * mass - rows.mean_key + rows.own) * per_mass(mass)
    ahead = len(query) - 1 - query if looks_ahead(rows.window) else torch.zeros_like(query)
    even = (query - 1) * (query - 2) + ahead * (ahead - 1).clamp_min(0)
    even_distance = even / (2 * (query + ahead).clamp_min(1))
    counts = eligible(rows) & (query >= FIRST_LOCALITY_QUERY)
    return QueryTerms((even_distance - distance) * counts, even_distance * counts)


def positional_terms(rows: Rows, following: Rows | None = None) -> QueryTerms:
    """How much position alone decides where a head looks, the sink apart.

    `1 - mean TV(A'_a[q], A'_b[q])` between two texts, over the rows `q >= 2` that both have and
    that look off the sink in both. 1 where two texts give the same rows, 0
    where they share no key. Misleads on stimuli of a fixed period, where an induction head looks
    at a fixed offset.
    """
    mass = rows.non_sink_mass
    if following is None:
        return QueryTerms(torch.zeros_like(mass), torch.zeros_like(mass))
    query, counts = query_positions(mass), torch.zeros_like(mass, dtype=torch.bool)
    n = min(mass.shape[-1], following.non_sink_mass.shape[-1])
    counts[..., :n] = eligible(rows)[..., :n] & eligible(following)[..., :n]
    counts &= query >= FIRST_POSITIONAL_QUERY
    return QueryTerms((1 - rows.variation(following)) * counts, counts.to(mass.dtype))


def diffuse_terms(
    rows: Rows, following: Rows | None = None, *, first_query: int = FIRST_DIFFUSE_QUERY
) -> QueryTerms:
    """How evenly a head spreads: `mean H(A[q]) / log |K(q)|` over rows `q >= 8`.

    1 for uniform attention over all that the layer may see, 0 for a single key.
    """
    query = query_positions(rows.entropy)
    visible = visible_keys(len(query), rows.window).to(query)
    counts = (query >= first_query) & (visible > 1)
    share = rows.entropy / visible.clamp_min(2).log()
    return QueryTerms(share * counts, counts.expand_as(share).to(share.dtype))
