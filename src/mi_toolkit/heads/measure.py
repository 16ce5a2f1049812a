"""Measuring behaviours while a model runs: figures of rows in, a few sums per unit out.

A unit is what the bootstrap draws: a sequence, or a query where there are too few sequences. Of
each layer's patterns only a numerator and a denominator per behaviour, unit and head are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_toolkit.heads.behaviours import DistributionBehaviour
from mi_toolkit.heads.block_figures import BlockReader
from mi_toolkit.heads.plan import Plan
from mi_toolkit.heads.scores import PatternRows, QueryTerms


@dataclass(frozen=True, kw_only=True, eq=False)
class UnitSums:
    """What each unit adds to one behaviour's figure, in the layers of one window."""

    numerator: Float[Tensor, "unit layer head"]
    """0 where the unit is not eligible for the head."""

    denominator: Float[Tensor, "unit own_layer own_head"]
    """0 where the unit is not eligible for the head; one for all where heads cannot differ."""

    null: Float[Tensor, " unit"] | None
    """The numerator of chance; None for a distribution behaviour."""

    n_queries: Int[Tensor, "layer head"]
    """How many queries each head was measured on."""


class _Chosen(NamedTuple):
    """What one behaviour takes of a batch, in every layer alike."""

    takes_part: Bool[Tensor, " sequence"]
    """Which of the batch's sequences have eligible queries; the rest is of those alone."""

    rows: Int[Tensor, " kept"]
    """Their rows in the sums."""

    weight: Float[Tensor, "kept 1 query"]
    """1 for an eligible query."""

    share: Float[Tensor, "kept 1 query"]
    """The same in equal parts of each sequence."""

    n_queries: int


class Measurement:
    """The sums of the layers of one window over one stimulus, filled as patterns arrive.

    All that it has summed is in `tensors`, by name: put back, it goes on where it stood.
    """

    def __init__(self, plan: Plan, layers: Sequence[int], n_heads: int) -> None:
        self.plan = plan
        self.place = {layer: place for place, layer in enumerate(layers)}
        heads = (len(layers), n_heads)
        self._n_queries = torch.zeros(len(plan.behaviours), *heads, dtype=torch.long)
        self._row = torch.zeros(len(plan.behaviours), len(plan.batch), dtype=torch.long)
        self._batch: tuple[tuple[int, ...], int] | None = None
        self._of_batch: dict[int, _Chosen] = {}
        self._sums: list[tuple[Tensor, Tensor]] = []
        for index, behaviour in enumerate(plan.behaviours):
            eligibility = plan.eligibility[index]
            takes_part = eligibility.queries.any(dim=-1)
            self._row[index] = takes_part.cumsum(dim=0) - 1
            shape: tuple[int, ...] = (int(takes_part.sum()), *heads)
            if not eligibility.by_sequence:
                shape = (*shape, eligibility.queries.shape[1])
            varies = isinstance(behaviour, DistributionBehaviour)
            self._sums.append((torch.zeros(shape), torch.zeros(shape if varies else ())))

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """What was summed so far; the tensors are the measurement's own."""
        named = {"n_queries": self._n_queries}
        for index, (numerator, denominator) in enumerate(self._sums):
            named |= {f"numerator.{index}": numerator, f"denominator.{index}": denominator}
        return named

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` once held."""
        for name, held in self.tensors.items():
            held.copy_(tensors[name])

    def add(self, layer: int, reader: BlockReader) -> None:
        """Take the rows of one layer for the reader's sequences."""
        figures, following = reader.figures, reader.following
        sequences, n = tuple(reader.sequences[: reader.n_fresh]), figures.own.shape[-1]
        masks = iter(reader.attended[:, : reader.n_fresh])
        for index, behaviour in enumerate(self.plan.behaviours):
            chosen = self._chosen(index, sequences, n)
            if not isinstance(behaviour, DistributionBehaviour):
                attended = next(masks)
                if chosen is not None:
                    self._keep_mask(index, layer, chosen, attended)
            elif behaviour.needs is not None and chosen is not None:
                terms = QueryTerms(*behaviour.terms(figures, following))
                self._keep_distribution(index, layer, chosen, terms, behaviour.pools_queries)

    def add_whole(
        self, layer: int, sequence: int, rows: PatternRows, following: PatternRows | None
    ) -> None:
        """Take one sequence's whole patterns, for the behaviours that want them."""
        for index, behaviour in enumerate(self.plan.behaviours):
            if not isinstance(behaviour, DistributionBehaviour) or behaviour.needs is not None:
                continue
            chosen = self._chosen(index, (sequence,), rows.patterns.shape[-2])
            if chosen is not None:
                numerator, denominator = behaviour.measured(rows, following)
                terms = QueryTerms(numerator[None].cpu(), denominator[None].cpu())
                self._keep_distribution(index, layer, chosen, terms, behaviour.pools_queries)

    def _chosen(self, index: int, sequences: tuple[int, ...], n: int) -> _Chosen | None:
        """What one behaviour takes of a batch; None where nothing is eligible."""
        if self._batch != (sequences, n):
            # Every layer of a batch takes the same.
            self._batch, self._of_batch = (sequences, n), {}
        if index not in self._of_batch:
            queries = self.plan.eligibility[index].queries[list(sequences), :n]
            takes_part = queries.any(dim=-1)
            weight = queries[takes_part][:, None].to(torch.float32)
            self._of_batch[index] = _Chosen(
                takes_part=takes_part,
                rows=self._row[index, torch.tensor(sequences)[takes_part]],
                weight=weight,
                share=weight / weight.sum(dim=-1, keepdim=True),
                n_queries=int(queries.sum()),
            )
        chosen = self._of_batch[index]
        return chosen if chosen.n_queries else None

    def _keep_mask(self, index: int, layer: int, chosen: _Chosen, attended: Tensor) -> None:
        self._n_queries[index, self.place[layer]] += chosen.n_queries
        self._hold(index, layer, chosen, [attended[chosen.takes_part] * chosen.share])

    def _keep_distribution(
        self, index: int, layer: int, chosen: _Chosen, terms: QueryTerms, pools_queries: bool
    ) -> None:
        numerator, denominator = (term[chosen.takes_part] * chosen.weight for term in terms)
        self._n_queries[index, self.place[layer]] += (denominator > 0).sum(dim=(0, -1))
        if not pools_queries:
            count = denominator.sum(dim=-1, keepdim=True).clamp_min(1)
            numerator, denominator = numerator / count, denominator / count
        self._hold(index, layer, chosen, [numerator, denominator])

    def _hold(self, index: int, layer: int, chosen: _Chosen, terms: Sequence[Tensor]) -> None:
        place = self.place[layer]
        # A mask gives no denominator: its queries' shares, the same in every head.
        for held, term in zip(self._sums[index], terms, strict=False):
            if self.plan.eligibility[index].by_sequence:
                held[chosen.rows, place] = term.sum(dim=-1)
            else:
                held[chosen.rows, place, :, : term.shape[-1]] = term

    def unit_sums(self, index: int) -> UnitSums:
        """What the units add to the figure of the behaviour with that place in the plan."""
        eligibility = self.plan.eligibility[index]
        takes_part = eligibility.queries.any(dim=-1)
        queries, share = eligibility.queries[takes_part], eligibility.share[takes_part]
        numerator, denominator = self._sums[index]
        varies = isinstance(self.plan.behaviours[index], DistributionBehaviour)
        if eligibility.by_sequence:
            denominator = denominator if varies else share.sum(dim=-1)[:, None, None]
        else:
            by_query = "sequence layer head query -> sequence query layer head"
            numerator = rearrange(numerator, by_query)[queries]
            denominator = (
                rearrange(denominator, by_query)[queries]
                if varies
                else share[queries][:, None, None]
            )
        return UnitSums(
            numerator=numerator,
            denominator=denominator,
            null=eligibility.null,
            n_queries=self._n_queries[index],
        )
