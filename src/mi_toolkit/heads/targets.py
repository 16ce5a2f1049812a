"""Mask behaviours: which keys a head of that kind attends to, query by query.

Each function takes the ids `t` of one sequence and whether position 0 is a BOS, and gives the set
`M(q)` of target keys for each query `q`. A query with no target is not eligible.

Most give it without a square of booleans: for each query a run of an ordered pool of keys.

A mask `[query key]` of a long sequence is mostly empty. What each query looks for lies together
once the keys are put in the right order: the earlier copies of a token are the head of its
occurrences, in order. So a list of keys and two numbers for each query say it all, and memory
grows with the length alone.

`Targets` puts the lists of several behaviours together, cuts them to what a window shows, and gives
the cells of any block of queries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mi_toolkit.core.sight import Sight, sees

KEPT_CELLS = 2**20
"""Cells of a sequence that are kept between layers; where there are more they are found anew."""

BLOCK = 256
"""Queries whose cells are counted together."""


@dataclass(frozen=True, kw_only=True, eq=False)
class KeyLists:
    """Each query's target keys, ascending: `pool[first : first + count] + shift`."""

    pool: Int[Tensor, " key"]
    first: Int[Tensor, " query"]
    count: Int[Tensor, " query"]
    shift: int = 0


SparseMask = Callable[..., KeyLists]
"""`(ids, has_bos)`: the same keys as a mask of these ids marks, as lists. What reads text gets the
text of each token as one more keyword argument, `texts`."""


def at_offset(ids: Int[Tensor, " position"], has_bos: bool, *, distance: int) -> KeyLists:
    """`{q-distance}`, after a BOS for queries whose target is a real token."""
    position = torch.arange(len(ids))
    begin = distance + has_bos if distance else 1 + has_bos
    return KeyLists(
        pool=position, first=(position - distance).clamp_min(0), count=(position >= begin).long()
    )


def at_start(ids: Int[Tensor, " position"], has_bos: bool) -> KeyLists:
    """`{0}` for `q >= 1`."""
    position = torch.arange(len(ids))
    return KeyLists(pool=position, first=torch.zeros_like(position), count=(position >= 1).long())


def at_copies(ids: Int[Tensor, " position"], has_bos: bool) -> KeyLists:
    """`{k < q : t[k] = t[q]}`, a BOS at 0 left out."""
    n = len(ids)
    pool = torch.sort(ids, stable=True).indices
    _, group, size = torch.unique(ids, return_inverse=True, return_counts=True)
    first = (size.cumsum(dim=0) - size)[group]
    count = torch.empty_like(first)
    count[pool] = torch.arange(n) - first[pool]
    if has_bos:
        of_bos = (ids == ids[0]) & (torch.arange(n) > 0)
        first, count = first + of_bos.long(), count - of_bos.long()
    return KeyLists(pool=pool, first=first, count=count)


def after_copies(ids: Int[Tensor, " position"], has_bos: bool) -> KeyLists:
    """`{k+1 : k < q, t[k] = t[q], k+1 < q}`, a BOS at 0 left out."""
    copies = at_copies(ids, has_bos)
    twice = torch.zeros(len(ids), dtype=torch.long)
    twice[1:] = ids[1:] == ids[:-1]  # the copy just before, whose next token is the query
    return KeyLists(
        pool=copies.pool,
        first=copies.first,
        count=(copies.count - twice).clamp_min(0),
        shift=1,
    )


def marked_keys(mask: Bool[Tensor, "query key"]) -> KeyLists:
    """The keys that a square of booleans marks."""
    count = mask.sum(dim=-1)
    return KeyLists(pool=mask.nonzero()[:, 1], first=count.cumsum(dim=0) - count, count=count)


def mask_of(
    listed: SparseMask, ids: Int[Tensor, " position"], has_bos: bool, **text: Sequence[str]
) -> Bool[Tensor, "query key"]:
    """The square of booleans that marks the keys of some lists."""
    cells = _expanded(listed(ids, has_bos, **text), 0, 0, len(ids))
    mask = torch.zeros(len(ids), len(ids), dtype=torch.bool)
    mask[cells.query, cells.key] = True
    return mask


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


def _within(position: Tensor, span: range) -> Tensor:
    return (position >= span.start) & (position < span.stop)


def _positions(ids: Tensor) -> tuple[Tensor, Tensor]:
    position = torch.arange(len(ids))
    return position[:, None], position[None, :]


class Cells(NamedTuple):
    """Some target keys, with the query and the mask that each belongs to."""

    mask: Int[Tensor, " cell"]
    query: Int[Tensor, " cell"]
    key: Int[Tensor, " cell"]


class Gather(NamedTuple):
    """Some cells of a block of patterns, and the slots that they are added to."""

    cell: Int[Tensor, " cell"]
    """Places in the block `[query key]`, read row by row."""

    slot: Int[Tensor, " cell"]
    """Places in `[row query]`, read row by row."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """The target keys of several masks in one sequence, as far as the layer sees them."""

    lists: Sequence[KeyLists]
    """One for each mask."""

    length: int
    window: Sight

    _kept: dict[tuple[int, ...], Gather] = field(default_factory=dict)

    def gathered(
        self, first_query: int, n_queries: int, first_key: int, n_keys: int, n_slots: int
    ) -> Gather:
        """What to gather from a block of patterns, and where it belongs.

        A slot is a query in a row of `n_slots`: one row for each mask, then one for the query's
        own attention, and one for the attention on position 0.
        """
        block = (first_query, n_queries, first_key, n_keys, n_slots)
        if block in self._kept:
            return self._kept[block]
        mask, query, key = self.cells(first_query, min(first_query + n_queries, self.length))
        every = torch.arange(first_query, first_query + n_queries)
        at_sink = every if first_key == 0 else every[:0]
        own, sink = torch.full_like(every, len(self.lists)), torch.full_like(at_sink, 1)
        mask = torch.cat([mask, own, sink + len(self.lists)])
        query = torch.cat([query, every, at_sink])
        key = torch.cat([key, every, torch.zeros_like(at_sink)])
        found = Gather(
            cell=(query - first_query) * n_keys + key - first_key, slot=mask * n_slots + query
        )
        if self._is_small:
            # Every layer asks for the same blocks.
            self._kept[block] = found
        return found

    @cached_property
    def n_keys(self) -> Int[Tensor, "mask query"]:
        """How many targets each query has."""
        counted = torch.zeros(len(self.lists), self.length, dtype=torch.long)
        for start in range(0, self.length, BLOCK):
            stop = min(start + BLOCK, self.length)
            cells = self.cells(start, stop)
            slots = cells.mask * (stop - start) + cells.query - start
            counted[:, start:stop] = slots.bincount(
                minlength=len(self.lists) * (stop - start)
            ).view(len(self.lists), -1)
        return counted

    @cached_property
    def _is_small(self) -> bool:
        return int(sum(each.count.sum() for each in self.lists)) <= KEPT_CELLS

    def cells(self, start: int, stop: int) -> Cells:
        """The targets of the queries from `start` up to `stop`; none where there are none."""
        stop = max(start, stop)
        parts = [_expanded(each, index, start, stop) for index, each in enumerate(self.lists)]
        if not parts:
            nothing = torch.zeros(0, dtype=torch.long)
            return Cells(nothing, nothing, nothing)
        cells = Cells(*(torch.cat(columns) for columns in zip(*parts, strict=True)))
        seen = sees(self.window, cells.query, cells.key)
        return Cells(*(column[seen] for column in cells))


def _expanded(keys: KeyLists, mask: int, start: int, stop: int) -> Cells:
    count, first = keys.count[start:stop], keys.first[start:stop]
    query = torch.repeat_interleave(torch.arange(start, stop), count)
    offset = torch.repeat_interleave(first - (count.cumsum(dim=0) - count), count)
    key = keys.pool[offset + torch.arange(len(query))] + keys.shift
    return Cells(torch.full_like(query, mask), query, key)
