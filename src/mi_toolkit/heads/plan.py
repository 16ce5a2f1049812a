"""What the tokens alone decide: target keys, eligible queries and chance, before a model runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_toolkit.heads.behaviours import AnyBehaviour, DistributionBehaviour, MaskBehaviour
from mi_toolkit.heads.intervals import MIN_SEQUENCES
from mi_toolkit.heads.targets import Targets
from mi_toolkit.prompts.tokens import TokenBatch
from mi_toolkit.sight import Sight, looks_ahead, visible_keys

KEPT_TOKENS = 2**13
"""Tokens whose target keys are held, for every layer asks for those of a batch in turn."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Eligibility:
    """Which queries one behaviour can use under one window, as far as the tokens tell."""

    queries: Bool[Tensor, "sequence query"]
    """Eligible queries."""

    n_sequences: int
    """Sequences that take part."""

    null: Float[Tensor, " unit"] | None = None
    """What each unit, a sequence or a query, adds to chance; None for a distribution behaviour."""

    @property
    def n_queries(self) -> int:
        """Queries that take part."""
        return int(self.queries.sum())

    @property
    def by_sequence(self) -> bool:
        """Whether there are enough sequences to bootstrap over them."""
        return self.n_sequences >= MIN_SEQUENCES

    @property
    def share(self) -> Float[Tensor, "sequence query"]:
        """Of each sequence's eligible queries each one's part, 0 elsewhere."""
        return self.queries / self.queries.sum(dim=-1, keepdim=True).clamp_min(1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """How one stimulus is measured in the layers of one sight."""

    batch: TokenBatch
    window: Sight
    behaviours: tuple[AnyBehaviour, ...]
    eligibility: tuple[Eligibility, ...]
    """One per behaviour."""

    _held: dict[int, Targets] = field(default_factory=dict)

    @property
    def masks(self) -> tuple[MaskBehaviour, ...]:
        """The mask behaviours, in order."""
        return tuple(b for b in self.behaviours if isinstance(b, MaskBehaviour))

    def targets(self, sequence: int) -> Targets:
        """The target keys of the mask behaviours in one sequence."""
        if sequence not in self._held:
            if sum(each.length for each in self._held.values()) >= KEPT_TOKENS:
                self._held.clear()
            self._held[sequence] = _targets(self.batch, sequence, self.masks, self.window)
        return self._held[sequence]

    def pairs(
        self, behaviour: int, sequence: int
    ) -> tuple[Int[Tensor, " target"], Int[Tensor, " target"]]:
        """Queries and target keys of one mask behaviour in one sequence."""
        before = self.behaviours[:behaviour]
        place = sum(isinstance(each, MaskBehaviour) for each in before)
        mask, query, key = self.targets(sequence).cells(0, int(self.batch.lengths[sequence]))
        return query[mask == place], key[mask == place]


def make_plan(
    batch: TokenBatch, behaviours: Sequence[AnyBehaviour], window: Sight, stimulus: str
) -> Plan:
    """Find target keys, eligible queries and chance for layers of one sight."""
    masks = tuple(b for b in behaviours if isinstance(b, MaskBehaviour))
    queries = torch.zeros(len(masks), *batch.ids.shape, dtype=torch.bool)
    null = torch.zeros(queries.shape)
    plan = Plan(batch=batch, window=window, behaviours=tuple(behaviours), eligibility=())
    for index in range(len(batch) if masks else 0):
        n = int(batch.lengths[index])
        n_keys = plan.targets(index).n_keys
        queries[:, index, :n] = n_keys > 0
        null[:, index, :n] = n_keys / visible_keys(n, window).clamp_min(1)
    masked = zip(queries, null, strict=True)
    eligibility = [
        _mask_eligibility(*next(masked))
        if isinstance(behaviour, MaskBehaviour)
        else _distribution_eligibility(batch, behaviour, stimulus, looks_ahead(window))
        for behaviour in behaviours
    ]
    return Plan(
        batch=batch,
        window=window,
        behaviours=tuple(behaviours),
        eligibility=tuple(eligibility),
        _held=plan._held,
    )


def _targets(
    batch: TokenBatch, sequence: int, masks: Sequence[MaskBehaviour], window: Sight
) -> Targets:
    ids, roles = batch.sequence(sequence), batch.roles_of(sequence)
    has_bos = bool(batch.has_bos[sequence])
    return Targets(
        lists=[behaviour.keys(ids, has_bos, roles) for behaviour in masks],
        length=len(ids),
        window=window,
    )


def _mask_eligibility(queries: Tensor, null: Tensor) -> Eligibility:
    takes_part = queries.any(dim=-1)
    found = Eligibility(queries=queries, n_sequences=int(takes_part.sum()))
    chance = null * found.share
    units = chance.sum(dim=-1)[takes_part] if found.by_sequence else chance[queries]
    return replace(found, null=units)


def _distribution_eligibility(
    batch: TokenBatch, behaviour: DistributionBehaviour, stimulus: str, alone: bool
) -> Eligibility:
    lengths = batch.lengths
    takes_part = torch.full((len(batch),), stimulus not in behaviour.excluded_stimuli)
    if behaviour.compares_sequences:
        takes_part &= _differs_from_next(batch)
        if alone:  # where padding would be seen, texts of other lengths run in other batches
            takes_part &= lengths == lengths.roll(-1)
        lengths = torch.minimum(lengths, lengths.roll(-1))
    position = torch.arange(batch.ids.shape[1])
    queries = (position >= behaviour.first_query) & (position < lengths[:, None])
    queries &= takes_part[:, None]
    sequences = queries.any(dim=-1)
    if behaviour.compares_sequences:
        sequences = sequences | sequences.roll(1)
    return Eligibility(queries=queries, n_sequences=int(sequences.sum()))


def _differs_from_next(batch: TokenBatch) -> Bool[Tensor, " sequence"]:
    differs = [
        not torch.equal(batch.sequence(here), batch.sequence(here + 1))
        for here in range(len(batch) - 1)
    ]
    return torch.tensor([*differs, False])
