"""What the tokens alone decide: target keys, eligible queries and chance, before a model runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_toolkit.heads import masks
from mi_toolkit.heads.behaviours import AnyBehaviour, DistributionBehaviour, MaskBehaviour
from mi_toolkit.heads.intervals import MIN_SEQUENCES
from mi_toolkit.prompts.tokens import TokenBatch


@dataclass(frozen=True, kw_only=True, eq=False)
class Eligibility:
    """Which queries one behaviour can use under one window, as far as the tokens tell."""

    queries: Bool[Tensor, "sequence query"]
    """Eligible queries."""

    null: Float[Tensor, "sequence query"] | None
    """Chance, `|M(q)| / |K(q)|`; None for a distribution behaviour."""

    n_sequences: int
    """Sequences that take part."""

    @property
    def n_queries(self) -> int:
        """Queries that take part."""
        return int(self.queries.sum())

    @property
    def by_sequence(self) -> bool:
        """Whether there are enough sequences to bootstrap over them."""
        return self.n_sequences >= MIN_SEQUENCES


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """The target keys of every mask behaviour in one sequence, as indices into its pattern."""

    cells: Int[Tensor, " target"]
    """`query * length + key`, in the flattened pattern."""

    slots: Int[Tensor, " target"]
    """`mask_behaviour * length + query`: where the attention on that cell is summed."""

    top_only: Bool[Tensor, " target"]
    """Whether the cell counts by being the one attended most in its row."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """How one stimulus is measured in the layers of one window."""

    batch: TokenBatch
    window: int | None
    behaviours: tuple[AnyBehaviour, ...]
    eligibility: tuple[Eligibility, ...]
    """One per behaviour."""

    targets: tuple[Targets, ...]
    """One per sequence."""

    @property
    def n_masks(self) -> int:
        """How many of the behaviours are mask behaviours."""
        return sum(isinstance(behaviour, MaskBehaviour) for behaviour in self.behaviours)

    def pairs(
        self, behaviour: int, sequence: int
    ) -> tuple[Int[Tensor, " target"], Int[Tensor, " target"]]:
        """Queries and target keys of one mask behaviour in one sequence."""
        before = self.behaviours[:behaviour]
        mask = sum(isinstance(each, MaskBehaviour) for each in before)
        targets, n = self.targets[sequence], int(self.batch.lengths[sequence])
        own = targets.slots // n == mask
        return targets.cells[own] // n, targets.cells[own] % n


def make_plan(
    batch: TokenBatch, behaviours: Sequence[AnyBehaviour], window: int | None, stimulus: str
) -> Plan:
    """Find target keys, eligible queries and chance for layers of one window."""
    mask_behaviours = [b for b in behaviours if isinstance(b, MaskBehaviour)]
    queries = torch.zeros(len(mask_behaviours), *batch.ids.shape, dtype=torch.bool)
    null = torch.zeros(queries.shape)
    top_only = torch.tensor([b.top_only for b in mask_behaviours], dtype=torch.bool)
    targets = []
    for index in range(len(batch)):
        ids = batch.sequence(index)
        n, has_bos = len(ids), bool(batch.has_bos[index])
        roles = batch.roles_of(index)
        visible = masks.visible(n, window)
        marked = torch.stack(
            [visible & behaviour.marked(ids, has_bos, roles) for behaviour in mask_behaviours]
            or [torch.zeros_like(visible)]
        )
        behaviour, query, key = marked.nonzero().unbind(dim=1)
        targets.append(
            Targets(
                cells=query * n + key, slots=behaviour * n + query, top_only=top_only[behaviour]
            )
        )
        if mask_behaviours:
            queries[:, index, :n] = marked.any(dim=-1)
            null[:, index, :n] = marked.sum(dim=-1) / visible.sum(dim=-1)
    masked = zip(queries, null, strict=True)
    eligibility = [
        _mask_eligibility(*next(masked))
        if isinstance(behaviour, MaskBehaviour)
        else _distribution_eligibility(batch, behaviour, stimulus)
        for behaviour in behaviours
    ]
    return Plan(
        batch=batch,
        window=window,
        behaviours=tuple(behaviours),
        eligibility=tuple(eligibility),
        targets=tuple(targets),
    )


def _mask_eligibility(queries: Tensor, null: Tensor) -> Eligibility:
    return Eligibility(queries=queries, null=null, n_sequences=int(queries.any(dim=-1).sum()))


def _distribution_eligibility(
    batch: TokenBatch, behaviour: DistributionBehaviour, stimulus: str
) -> Eligibility:
    lengths = batch.lengths
    takes_part = torch.full((len(batch),), stimulus not in behaviour.excluded_stimuli)
    if behaviour.compares_sequences:
        takes_part &= _differs_from_next(batch)
        lengths = torch.minimum(lengths, lengths.roll(-1))
    position = torch.arange(batch.ids.shape[1])
    queries = (position >= behaviour.first_query) & (position < lengths[:, None])
    queries &= takes_part[:, None]
    sequences = queries.any(dim=-1)
    if behaviour.compares_sequences:
        sequences = sequences | sequences.roll(1)
    return Eligibility(queries=queries, null=None, n_sequences=int(sequences.sum()))


def _differs_from_next(batch: TokenBatch) -> Bool[Tensor, " sequence"]:
    differs = [
        not torch.equal(batch.sequence(here), batch.sequence(here + 1))
        for here in range(len(batch) - 1)
    ]
    return torch.tensor([*differs, False])
