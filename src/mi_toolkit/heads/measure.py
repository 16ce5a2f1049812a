"""Measuring behaviours while a model runs: figures of rows in, a few sums per unit out.

A unit is what the bootstrap draws: a sequence, or a query where there are too few sequences. Of
each layer's patterns only a numerator and a denominator per behaviour, unit and head are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
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


class Measurement:
    """The sums of the layers of one window over one stimulus, filled as patterns arrive.

    All that it holds is in `tensors`, by name: put back, it goes on where it stood.
    """

    def __init__(self, plan: Plan, layers: Sequence[int], n_heads: int) -> None:
        self.plan = plan
        self.place = {layer: place for place, layer in enumerate(layers)}
        heads = (len(layers), n_heads)
        self._n_queries = torch.zeros(len(plan.behaviours), *heads, dtype=torch.long)
        self._row = torch.zeros(len(plan.behaviours), len(plan.batch), dtype=torch.long)
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
        sequences, n = list(reader.sequences[: reader.n_fresh]), figures.own.shape[-1]
        masks = iter(reader.attended[:, : reader.n_fresh])
        for index, behaviour in enumerate(self.plan.behaviours):
            queries = self.plan.eligibility[index].queries[sequences, :n]
            if not isinstance(behaviour, DistributionBehaviour):
                terms = QueryTerms(next(masks), torch.ones(()))
            elif behaviour.needs is None or not queries.any():
                continue
            else:
                terms = QueryTerms(*behaviour.terms(figures, following))
            if queries.any():
                self._keep(index, layer, sequences, terms, queries)

    def add_whole(
        self, layer: int, sequence: int, rows: PatternRows, following: PatternRows | None
    ) -> None:
        """Take one sequence's whole patterns, for the behaviours that want them."""
        for index, behaviour in enumerate(self.plan.behaviours):
            if not isinstance(behaviour, DistributionBehaviour) or behaviour.needs is not None:
                continue
            queries = self.plan.eligibility[index].queries[sequence, : rows.patterns.shape[-2]]
            if queries.any():
                numerator, denominator = behaviour.measured(rows, following)
                terms = QueryTerms(numerator[None].cpu(), denominator[None].cpu())
                self._keep(index, layer, [sequence], terms, queries[None])

    def _keep(
        self, index: int, layer: int, sequences: Sequence[int], terms: QueryTerms, queries: Tensor
    ) -> None:
        behaviour, place = self.plan.behaviours[index], self.place[layer]
        kept = queries.any(dim=-1)
        rows = self._row[index, torch.tensor(list(sequences))[kept]]
        weight = queries[kept][:, None].to(torch.float32)
        numerator, denominator = terms.numerator[kept] * weight, weight.expand(-1, -1, -1)
        if isinstance(behaviour, DistributionBehaviour):
            denominator = terms.denominator[kept] * weight
        self._n_queries[index, place] += (denominator > 0).sum(dim=(0, -1))
        if not (isinstance(behaviour, DistributionBehaviour) and behaviour.pools_queries):
            count = denominator.sum(dim=-1, keepdim=True).clamp_min(1)
            numerator, denominator = numerator / count, denominator / count
        if self.plan.eligibility[index].by_sequence:
            numerator, denominator = numerator.sum(dim=-1), denominator.sum(dim=-1)
        for held, term in zip(self._sums[index], (numerator, denominator), strict=True):
            if held.ndim == 3:
                held[rows, place] = term
            elif held.ndim == 4:
                held[rows, place, :, : term.shape[-1]] = term

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
