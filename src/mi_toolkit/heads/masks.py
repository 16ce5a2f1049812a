"""Mask behaviours: which keys a head of that kind attends to, query by query.

Each function takes the ids `t` of one sequence and whether position 0 is a BOS, and marks the set
`M(q)` of target keys for each query `q`. A query with no target is not eligible.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
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


def end_to_name(
    ids: Int[Tensor, " position"], has_bos: bool, *, end: range, **name: range
) -> Bool[Tensor, "position position"]:
    """From the prompt's `end` to the one other role that is given: a name's position."""
    query, key = _positions(ids)
    (where,) = name.values()
    return _within(query, end) & _within(key, where)


def copied_token(
    ids: Int[Tensor, " position"], has_bos: bool, *, needle: range, answer: range
) -> Bool[Tensor, "position position"]:
    """`{k in needle : t[k] = t[q+1]}` for each `q` from which a token of `answer` is predicted."""
    query, key = _positions(ids)
    following = ids.roll(-1)
    predicts = _within(query + 1, answer)
    return predicts & _within(key, needle) & (ids[None, :] == following[:, None]) & (key <= query)


def visible(n_positions: int, window: int | None) -> Bool[Tensor, "query key"]:
    """`K_l(q) = {max(0, q-w+1) … q}`: the keys that a causal layer with this window may see."""
    query = torch.arange(n_positions)[:, None]
    key = torch.arange(n_positions)[None, :]
    causal = key <= query
    return causal if window is None else causal & (key > query - window)


def _within(position: Tensor, span: range) -> Tensor:
    return (position >= span.start) & (position < span.stop)


def _positions(ids: Tensor) -> tuple[Tensor, Tensor]:
    position = torch.arange(len(ids))
    return position[:, None], position[None, :]
