"""Scores of attention patterns: pure functions on tensors, which know no model.

Mask behaviours have one score, `mask_score`, over their target keys. Distribution behaviours ask
where a row's attention lies as a whole; each is a function of the `Rows` of a sequence (and of one
that it is compared with, where the score compares) that gives, per head and query, a numerator and
a denominator; the behaviour's value is the ratio of their sums.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_toolkit.heads.rows import PatternRows as PatternRows
from mi_toolkit.heads.rows import Rows, eligible, per_mass, query_positions
from mi_toolkit.sight import looks_ahead, visible_keys

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


class QueryTerms(NamedTuple):
    """What each query adds to the numerator and denominator of a value."""

    numerator: Float[Tensor, "*rows query"]
    denominator: Float[Tensor, "*rows query"]


def locality_terms(rows: Rows, following: Rows | None = None) -> QueryTerms:
    """How near a head looks: `1 - ΣΣ A'[q,k]·d / ΣΣ U[q,k]·d`, with `d = max(0, q-k-1)`.

    `U` is even attention over all causal keys but the sink, never the window alone: a windowed
    layer *is* local. 1 for a current- or previous-token head at any length, 0 for even attention,
    below 0 for farther than chance. Over rows `q >= 3`; a ratio of sums, so that long rows, where
    near and far differ most, weigh most. Where a layer looks ahead, `d = max(0, |q-k| - 1)` and `U`
    spreads over both sides.
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


def diffuse_terms(rows: Rows, following: Rows | None = None) -> QueryTerms:
    """How evenly a head spreads: `mean H(A[q]) / log |K(q)|` over rows `q >= 8`.

    1 for even attention over all that the layer may see, 0 for a single key.
    """
    query = query_positions(rows.entropy)
    visible = visible_keys(len(query), rows.window).to(query)
    counts = (query >= FIRST_DIFFUSE_QUERY) & (visible > 1)
    share = rows.entropy / visible.clamp_min(2).log()
    return QueryTerms(share * counts, counts.expand_as(share).to(share.dtype))
