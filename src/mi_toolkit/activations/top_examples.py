"""The tokens that excite each unit most, with the text around them.

Of equal values the earlier token comes first, in one run as in merged ones: a neuron that is never
on has the first tokens of the texts, not random ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

NOWHERE = -1
"""Where a place or a token of context does not exist."""

PLACES = ("document", "chunk", "position")


@dataclass(frozen=True, kw_only=True, eq=False)
class Tokens:
    """Some consecutive tokens of the texts: where each is, and what stands around it."""

    place: Int[Tensor, "row 3"]
    """Document, chunk and position."""

    context: Int[Tensor, "row window"]
    """Token ids before, at and behind it; -1 beyond the ends of its sequence."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TopExamples:
    """The best tokens of each unit, best first."""

    values: Float[Tensor, "unit top"]
    """The activation; minus infinity where there were fewer tokens."""

    place: Int[Tensor, "unit top 3"]
    """Document, chunk and position; -1 where there were fewer tokens."""

    context: Int[Tensor, "unit top window"]
    """Token ids around it, as in `Tokens`."""

    def updated(self, rows: Float[Tensor, "row unit"], tokens: Tokens) -> TopExamples:
        """The best of these and of some later tokens."""
        if not len(rows):
            return self
        # An equal value later on does not displace an earlier one.
        moved = (rows.amax(dim=0) > self.values[:, -1]).nonzero().squeeze(1)
        if not len(moved):
            return self
        n_top = self.values.shape[1]
        values, best = _first_of_the_largest(rows[:, moved].T.float(), n_top)
        later = TopExamples(values=values, place=tokens.place[best], context=tokens.context[best])
        merged = TopExamples(
            values=self.values[moved], place=self.place[moved], context=self.context[moved]
        ).merged(later)
        whole = TopExamples(
            values=self.values.clone(), place=self.place.clone(), context=self.context.clone()
        )
        whole.values[moved], whole.place[moved] = merged.values, merged.place
        whole.context[moved] = merged.context
        return whole

    def merged(self, later: TopExamples) -> TopExamples:
        """The best of these and of the best of later tokens."""
        values = torch.cat([self.values, later.values], dim=1)
        values, best = _first_of_the_largest(values, self.values.shape[1])
        return TopExamples(
            values=values,
            place=_taken(torch.cat([self.place, later.place], dim=1), best),
            context=_taken(torch.cat([self.context, later.context], dim=1), best),
        )


def no_examples(n_units: int, n_top: int, window: int) -> TopExamples:
    """Before any token."""
    return TopExamples(
        values=torch.full((n_units, n_top), -torch.inf),
        place=torch.full((n_units, n_top, len(PLACES)), NOWHERE),
        context=torch.full((n_units, n_top, window), NOWHERE, dtype=torch.int32),
    )


def context_of(
    ids: Int[Tensor, "sequence position"],
    lengths: Int[Tensor, " sequence"],
    sequence: Int[Tensor, " row"],
    position: Int[Tensor, " row"],
    before: int,
    after: int,
) -> Int[Tensor, "row window"]:
    """The ids around some positions, `before` of them and `after`; -1 beyond a sequence's ends."""
    where = position[:, None] + torch.arange(-before, after + 1)
    inside = (where >= 0) & (where < lengths[sequence][:, None])
    around = ids[sequence[:, None], where.clamp(0, ids.shape[1] - 1)]
    return around.masked_fill(~inside, NOWHERE).int()


def _first_of_the_largest(
    values: Float[Tensor, "unit row"], n_top: int
) -> tuple[Float[Tensor, "unit top"], Int[Tensor, "unit top"]]:
    sorted_values, order = values.sort(dim=1, descending=True, stable=True)
    return sorted_values[:, :n_top], order[:, :n_top]


def _taken(
    places: Int[Tensor, "unit row field"], best: Int[Tensor, "unit top"]
) -> Int[Tensor, "unit top field"]:
    return places.gather(1, best[..., None].expand(-1, -1, places.shape[-1]))
