"""Measuring behaviours while a model runs: patterns in, a few sums per unit out.

A unit is what the bootstrap draws: a sequence, or a query where there are too few sequences. Of
each layer's patterns only a numerator and a denominator per behaviour, unit and head are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.heads.behaviours import DistributionBehaviour
from mi_toolkit.heads.plan import Plan
from mi_toolkit.heads.scores import PatternRows, QueryTerms, top_share


@dataclass(frozen=True, kw_only=True, eq=False)
class UnitSums:
    """What each unit adds to one behaviour's figure in one layer."""

    numerator: Float[Tensor, "unit head"]
    """0 where the unit is not eligible for the head."""

    denominator: Float[Tensor, "unit head"]
    """0 where the unit is not eligible for the head."""

    null: Float[Tensor, " unit"] | None
    """The numerator of chance; None for a distribution behaviour."""

    n_queries: Int[Tensor, " head"]
    """How many queries each head was measured on."""


class Measurement:
    """The sums of one layer over one stimulus, filled as its patterns arrive."""

    def __init__(self, plan: Plan, n_heads: int) -> None:
        self.plan = plan
        n_behaviours = len(plan.behaviours)
        self._n_queries = torch.zeros(n_behaviours, n_heads, dtype=torch.long)
        self._row = torch.zeros(n_behaviours, len(plan.batch), dtype=torch.long)
        self._sums: list[tuple[Tensor, Tensor]] = []
        for index, eligibility in enumerate(plan.eligibility):
            takes_part = eligibility.queries.any(dim=-1)
            self._row[index] = takes_part.cumsum(dim=0) - 1
            shape = [int(takes_part.sum()), n_heads]
            if not eligibility.by_sequence:
                shape.append(eligibility.queries.shape[1])
            self._sums.append((torch.zeros(shape), torch.zeros(shape)))

    def add(
        self, patterns: Float[Tensor, "sequence head query key"], start: int, fresh: int
    ) -> None:
        """Measure `fresh` consecutive sequences, from the stimulus' sequence `start` on.

        `patterns` may hold one sequence more, to compare the last with; it is padded on the right.
        """
        following: PatternRows | None = None
        for offset in reversed(range(len(patterns))):
            length = int(self.plan.batch.lengths[start + offset])
            rows = PatternRows(
                patterns=patterns[offset, :, :length, :length].float(), window=self.plan.window
            )
            if offset < fresh:
                self._add_sequence(start + offset, rows, following)
            following = rows

    def _add_sequence(
        self, sequence: int, rows: PatternRows, following: PatternRows | None
    ) -> None:
        n_heads, length, _ = rows.patterns.shape
        attended = iter(self._attended(sequence, rows.patterns))
        for index, behaviour in enumerate(self.plan.behaviours):
            eligible = self.plan.eligibility[index].queries[sequence, :length]
            weight = eligible.to(rows.patterns.device, rows.patterns.dtype)
            if not isinstance(behaviour, DistributionBehaviour):
                terms = QueryTerms(next(attended), weight.expand(n_heads, -1))
            elif eligible.any():
                numerator, denominator = behaviour.measured(rows, following)
                terms = QueryTerms(numerator * weight, denominator * weight)
            if eligible.any():
                self._keep(index, sequence, terms)

    def _attended(
        self, sequence: int, patterns: Float[Tensor, "head query key"]
    ) -> Float[Tensor, "mask head query"]:
        n_heads, length, _ = patterns.shape
        targets, device = self.plan.targets[sequence], patterns.device
        picked = patterns.flatten(start_dim=1).index_select(1, targets.cells.to(device))
        if targets.top_only.any():
            cells = targets.cells[targets.top_only].to(device)
            top = top_share(patterns[:, cells // length])
            here = (cells % length).expand(n_heads, -1)[..., None]
            picked[:, targets.top_only.to(device)] = top.gather(-1, here)[..., 0]
        summed = patterns.new_zeros(n_heads, self.plan.n_masks * length)
        summed.index_add_(1, targets.slots.to(device), picked)
        return rearrange(summed, "head (mask query) -> mask head query", query=length)

    def _keep(self, index: int, sequence: int, terms: QueryTerms) -> None:
        behaviour = self.plan.behaviours[index]
        numerator, denominator = (term.cpu() for term in terms)
        self._n_queries[index] += (denominator > 0).sum(dim=-1)
        if not (isinstance(behaviour, DistributionBehaviour) and behaviour.pools_queries):
            count = denominator.sum(dim=-1, keepdim=True).clamp_min(1)
            numerator, denominator = numerator / count, denominator / count
        row, length = self._row[index, sequence], numerator.shape[-1]
        kept_numerator, kept_denominator = self._sums[index]
        if self.plan.eligibility[index].by_sequence:
            kept_numerator[row] = numerator.sum(dim=-1)
            kept_denominator[row] = denominator.sum(dim=-1)
        else:
            kept_numerator[row, :, :length] = numerator
            kept_denominator[row, :, :length] = denominator

    def unit_sums(self, index: int) -> UnitSums:
        """What the units add to the figure of the behaviour with that place in the plan."""
        eligibility = self.plan.eligibility[index]
        queries = eligibility.queries[eligibility.queries.any(dim=-1)]
        share = queries / queries.sum(dim=-1, keepdim=True)
        null = None
        if eligibility.null is not None:
            null = eligibility.null[eligibility.queries.any(dim=-1)] * share
        numerator, denominator = self._sums[index]
        if eligibility.by_sequence:
            null = None if null is None else null.sum(dim=-1)
        else:
            numerator = numerator.transpose(1, 2)[queries]
            denominator = denominator.transpose(1, 2)[queries]
            null = None if null is None else null[queries]
        return UnitSums(
            numerator=numerator,
            denominator=denominator,
            null=null,
            n_queries=self._n_queries[index],
        )
