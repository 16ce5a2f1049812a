"""Scores of attention patterns: pure functions on tensors, which know no model.

Mask behaviours have one score, `mask_score`, over their target keys. Distribution behaviours ask
where a row's attention lies as a whole; each is a function of one sequence's `PatternRows` (and
the next sequence's, None behind the last) that gives, per head and query, a numerator and a
denominator; the behaviour's value is the ratio of their sums.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

BLOCK = 128
"""Queries that are scored together where whole rows are needed."""

MIN_NON_SINK_MASS = 0.05
"""A row with less attention than this off position 0 says nothing of where a head looks."""

FIRST_LOCALITY_QUERY = 3
FIRST_POSITIONAL_QUERY = 2
FIRST_DIFFUSE_QUERY = 8


def mask_score(
    patterns: Float[Tensor, "*heads query key"], mask: Bool[Tensor, "query key"]
) -> Float[Tensor, "*heads"]:
    """Mean attention on `mask`, over the queries that `mask` marks a key for.

    In [0, 1]; a head whose attention equals its mask scores 1. NaN where no query is marked.

    >>> mask_score(torch.tensor([[[1.0, 0.0], [0.25, 0.75]]]), torch.eye(2, dtype=torch.bool))
    tensor([0.8750])
    """
    queries = mask.any(dim=-1)
    attended = (patterns * mask).sum(dim=-1)
    return attended[..., queries].mean(dim=-1)


def top_share(
    patterns: Float[Tensor, "*heads query key"],
) -> Float[Tensor, "*heads query key"]:
    """1 on the key that each query attends to most, 0 elsewhere; keys that tie share the 1.

    A mask's score on it is how often the key attended most is a target; even attention, whose keys
    all tie, is at chance.

    >>> top_share(torch.tensor([[0.2, 0.7, 0.1], [0.4, 0.4, 0.2]]))
    tensor([[0.0000, 1.0000, 0.0000],
            [0.5000, 0.5000, 0.0000]])
    """
    top = patterns == patterns.amax(dim=-1, keepdim=True)
    # A row that even attention fills has zeros behind its query, which never tie with the rest.
    return top / top.sum(dim=-1, keepdim=True)


def mask_null(
    mask: Bool[Tensor, "query key"], visible: Bool[Tensor, "query key"]
) -> Float[Tensor, ""]:
    """`mask_score` of a head that attends evenly to all it may see: mean of `|M(q)| / |K(q)|`."""
    queries = mask.any(dim=-1)
    share = (mask & visible).sum(dim=-1) / visible.sum(dim=-1)
    return share[queries].mean()


def lift(score: Float[Tensor, "*shape"], null: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """`(score - null) / (1 - null)`: 0 is chance and 1 is perfect, whatever the prompt's length.

    NaN where chance is perfect already, so that no head could be told apart.

    >>> lift(torch.tensor([0.55, 1.0]), torch.tensor([0.1, 0.1]))
    tensor([0.5000, 1.0000])
    """
    above = (score - null) / (1 - null)
    return torch.where(null < 1, above, torch.nan)


@dataclass(frozen=True, kw_only=True, eq=False)
class PatternRows:
    """One sequence's attention patterns in one layer, and what several scores need of them."""

    patterns: Float[Tensor, "head query key"]
    """Attention after softmax, without padding."""

    window: int | None
    """The layer's sliding window in keys, the query's own included; None for all of them."""

    @cached_property
    def sink_split(self) -> Float[Tensor, "head query 2"]:
        """Of each row: the attention off position 0, and its sum weighted by key position."""
        n_keys = self.patterns.shape[-1]
        key = torch.arange(n_keys, dtype=self.patterns.dtype, device=self.patterns.device)
        return self.patterns @ torch.stack([(key > 0).to(key.dtype), key], dim=-1)

    @property
    def non_sink_mass(self) -> Float[Tensor, "head query"]:
        """Of each row: the attention off position 0."""
        return self.sink_split[..., 0]

    @cached_property
    def per_mass(self) -> Float[Tensor, "head query"]:
        """What scales a row's attention off position 0 to 1; unusable for rows not eligible."""
        return 1 / self.non_sink_mass.clamp_min(MIN_NON_SINK_MASS)

    @cached_property
    def eligible(self) -> Bool[Tensor, "head query"]:
        """The rows with enough attention off the sink to say where it goes."""
        return self.non_sink_mass >= MIN_NON_SINK_MASS

    def causal_blocks(self) -> Iterator[tuple[slice, Float[Tensor, "head block key"]]]:
        """The rows in blocks of queries, each without the keys that none of its queries can see.

        Half the work of the whole square, and temporaries of one block.
        """
        n_queries = self.patterns.shape[-2]
        for start in range(0, n_queries, BLOCK):
            stop = min(start + BLOCK, n_queries)
            yield slice(start, stop), self.patterns[..., start:stop, :stop]


class QueryTerms(NamedTuple):
    """What each query adds to the numerator and denominator of a value."""

    numerator: Float[Tensor, "head query"]
    denominator: Float[Tensor, "head query"]


def locality_terms(rows: PatternRows, following: PatternRows | None = None) -> QueryTerms:
    """How near a head looks: `1 - ΣΣ A'[q,k]·d / ΣΣ U[q,k]·d`, with `d = max(0, q-k-1)`.

    `U` is even attention over all causal keys but the sink, never the window alone: a windowed
    layer *is* local. 1 for a current- or previous-token head at any length, 0 for even attention,
    below 0 for farther than chance. Over rows `q >= 3`; a ratio of sums, so that long rows, where
    near and far differ most, weigh most.
    """
    query = _query_positions(rows)
    mass, weighted_key = rows.sink_split.unbind(dim=-1)
    own = rows.patterns.diagonal(dim1=-2, dim2=-1)
    distance = ((query - 1) * mass - weighted_key + own) * rows.per_mass
    even_distance = (query - 1) * (query - 2) / (2 * query.clamp_min(1))
    eligible = rows.eligible & (query >= FIRST_LOCALITY_QUERY)
    return QueryTerms((even_distance - distance) * eligible, even_distance * eligible)


def positional_terms(rows: PatternRows, following: PatternRows | None = None) -> QueryTerms:
    """How much position alone decides where a head looks, the sink apart.

    `1 - mean TV(A'_b[q], A'_{b+1}[q])` between this sequence and the next, over the rows `q >= 2`
    that both have and that look off the sink in both. 1 where two texts give the same rows, 0
    where they share no key. Misleads on stimuli of a fixed period, where an induction head looks
    at a fixed offset.
    """
    n_heads, n_queries, _ = rows.patterns.shape
    eligible = torch.zeros(n_heads, n_queries, dtype=torch.bool, device=rows.patterns.device)
    variation = rows.patterns.new_zeros(n_heads, n_queries)
    if following is not None:
        n = min(n_queries, following.patterns.shape[-2])
        eligible[:, :n] = rows.eligible[:, :n] & following.eligible[:, :n]
        eligible &= _query_positions(rows) >= FIRST_POSITIONAL_QUERY
        pairs = zip(rows.causal_blocks(), following.causal_blocks(), strict=False)
        for (queries, here), (_, there) in pairs:
            n_rows = min(here.shape[-2], there.shape[-2])
            both = slice(queries.start, queries.start + n_rows)
            difference = here[:, :n_rows, 1 : both.stop] * rows.per_mass[:, both, None]
            difference -= there[:, :n_rows, 1 : both.stop] * following.per_mass[:, both, None]
            variation[:, both] = difference.abs_().sum(dim=-1) / 2
    return QueryTerms((1 - variation) * eligible, eligible.to(variation.dtype))


def diffuse_terms(rows: PatternRows, following: PatternRows | None = None) -> QueryTerms:
    """How evenly a head spreads: `mean H(A[q]) / log |K(q)|` over rows `q >= 8`.

    1 for even attention over all that the layer may see, 0 for a single key.
    """
    query = _query_positions(rows)
    visible = query + 1 if rows.window is None else (query + 1).clamp_max(rows.window)
    eligible = (query >= FIRST_DIFFUSE_QUERY) & (visible > 1)
    share = row_entropy(rows) / visible.clamp_min(math.e).log()
    return QueryTerms(share * eligible, eligible.expand_as(share).to(share.dtype))


def row_entropy(rows: PatternRows) -> Float[Tensor, "head query"]:
    """Entropy of each row, in nats."""
    smallest = torch.finfo(rows.patterns.dtype).tiny
    # A zero's share is 0 · log(tiny) = 0. `torch.special.entr` takes three times as long.
    blocks = [
        torch.linalg.vecdot(block, block.clamp_min(smallest).log_())
        for _, block in rows.causal_blocks()
    ]
    return -torch.cat(blocks, dim=-1)


def _query_positions(rows: PatternRows) -> Float[Tensor, " query"]:
    patterns = rows.patterns
    return torch.arange(patterns.shape[-2], dtype=patterns.dtype, device=patterns.device)
