"""Target keys as squares of booleans and scores on them, as the definitions put them.

Not how the library finds them: what its lists of keys and its sums over blocks are held against.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def previous_token(
    ids: Int[Tensor, " position"], has_bos: bool
) -> Bool[Tensor, "position position"]:
    """`{q-1}` for `q >= 1`; after a BOS for `q >= 2`, whose previous token is a real one."""
    query, key = _positions(ids)
    return (key == query - 1) & (query >= 1 + has_bos)


def current_token(
    ids: Int[Tensor, " position"], has_bos: bool
) -> Bool[Tensor, "position position"]:
    """`{q}`, for the queries that have a previous token."""
    query, key = _positions(ids)
    return (key == query) & (query >= 1 + has_bos)


def first_token(ids: Int[Tensor, " position"], has_bos: bool) -> Bool[Tensor, "position position"]:
    """`{0}` for `q >= 1`: the sink, whatever token is there."""
    query, key = _positions(ids)
    return (key == 0) & (query >= 1)


def duplicate_token(
    ids: Int[Tensor, " position"], has_bos: bool
) -> Bool[Tensor, "position position"]:
    """`{k < q : t[k] = t[q]}`: every earlier copy of this token, a BOS at 0 left out."""
    query, key = _positions(ids)
    return (ids[None, :] == ids[:, None]) & (key < query) & (key >= int(has_bos))


def induction(ids: Int[Tensor, " position"], has_bos: bool) -> Bool[Tensor, "position position"]:
    """`{k+1 : k < q, t[k] = t[q], k+1 < q}`: what followed every earlier copy, a BOS left out."""
    query, key = _positions(ids)
    before = ids.roll(1)
    return (before[None, :] == ids[:, None]) & (key < query) & (key >= 1 + has_bos)


def fixed_offset(
    ids: Int[Tensor, " position"], has_bos: bool, *, distance: int
) -> Bool[Tensor, "position position"]:
    """`{q-d}` for `q >= d`; after a BOS for `q > d`, whose target is a real token."""
    query, key = _positions(ids)
    return (key == query - distance) & (query >= distance + has_bos)


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


def mask_null(
    mask: Bool[Tensor, "query key"], visible: Bool[Tensor, "query key"]
) -> Float[Tensor, ""]:
    """`mask_score` of a head that attends uniformly to all it sees: mean of `|M(q)| / |K(q)|`."""
    queries = mask.any(dim=-1)
    share = (mask & visible).sum(dim=-1) / visible.sum(dim=-1)
    return share[queries].mean()


def visible(n_positions: int, window: int | None) -> Bool[Tensor, "query key"]:
    """`K_l(q) = {max(0, q-w+1) … q}`: the keys that a causal layer with this window may see."""
    query = torch.arange(n_positions)[:, None]
    key = torch.arange(n_positions)[None, :]
    causal = key <= query
    return causal if window is None else causal & (key > query - window)


def _positions(ids: Tensor) -> tuple[Tensor, Tensor]:
    position = torch.arange(len(ids))
    return position[:, None], position[None, :]
