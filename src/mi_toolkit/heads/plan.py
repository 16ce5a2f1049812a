"""What the tokens alone decide: target keys, eligible queries and chance, before a model runs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_toolkit.core.sight import Sight, visible_keys
from mi_toolkit.core.stats import MIN_TEXTS
from mi_toolkit.core.tokens import TokenBatch
from mi_toolkit.heads.behaviours import AnyBehaviour
from mi_toolkit.heads.kinds import DistributionBehaviour, MaskBehaviour, Weighting
from mi_toolkit.heads.targets import Targets

KEPT_TOKENS = 2**13
"""Tokens whose target keys are held, for every layer asks for those of a batch in turn."""


COMPARED_WITH = 2
"""Texts ahead of it in the order of their digests that each text is compared with: all pairs of up
to five texts, and twice as many pairs as texts of more."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Eligibility:
    """Which queries one behaviour can use under one window, as far as the tokens decide it."""

    queries: Bool[Tensor, "row query"]
    """Eligible queries of each sequence, or of each pair of them that is compared."""

    n_sequences: int
    """Sequences that take part."""

    null: Float[Tensor, " unit"] | None = None
    """What each unit, a sequence or a query, adds to chance; None for a distribution behaviour."""

    weighting: Weighting = "prompts"
    """What counts alike in the behaviour's figure."""

    @property
    def n_queries(self) -> int:
        """Queries that take part."""
        return int(self.queries.sum())

    @property
    def by_sequence(self) -> bool:
        """Whether there are enough sequences for an interval over them."""
        return self.n_sequences >= MIN_TEXTS

    def weight(self, rows: Bool[Tensor, "some query"]) -> Float[Tensor, "some query"]:
        """How much each eligible query of some rows counts, 0 elsewhere.

        Where prompts weigh alike, those of a row share a weight of 1; else each has it.
        """
        if self.weighting == "queries":
            return rows.float()
        return rows / rows.sum(dim=-1, keepdim=True).clamp_min(1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """How one stimulus is measured in the layers of one sight."""

    batch: TokenBatch
    window: Sight
    behaviours: tuple[AnyBehaviour, ...]
    eligibility: tuple[Eligibility, ...]
    """One per behaviour."""

    compared: tuple[tuple[int, int], ...] = ()
    """The pairs of sequences that are compared."""

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
    batch: TokenBatch,
    behaviours: Sequence[AnyBehaviour],
    window: Sight,
    stimulus: str,
    *,
    pads: bool = True,
    weighting: Weighting = "prompts",
) -> Plan:
    """Find target keys, eligible queries and chance for layers of one sight.

    Args:
        batch: the sequences.
        behaviours: what is measured.
        window: what the layers' queries may see.
        stimulus: the name of the sequences.
        pads: whether sequences of unequal length may run together; not where padding would be
            seen.
        weighting: what counts alike in a figure, each sequence or each query.
    """
    masks = tuple(b for b in behaviours if isinstance(b, MaskBehaviour))
    queries = torch.zeros(len(masks), *batch.ids.shape, dtype=torch.bool)
    null = torch.zeros(queries.shape)
    plan = Plan(batch=batch, window=window, behaviours=tuple(behaviours), eligibility=())
    for index in range(len(batch) if masks else 0):
        n = int(batch.lengths[index])
        n_keys = plan.targets(index).n_keys
        queries[:, index, :n] = n_keys > 0
        null[:, index, :n] = n_keys / visible_keys(n, window).clamp_min(1)
    compares = any(compares_on(behaviour, stimulus) for behaviour in behaviours)
    compared = compared_pairs(batch, pads=pads) if compares else ()
    masked = zip(queries, null, strict=True)
    eligibility = [
        _mask_eligibility(*next(masked), weighting)
        if isinstance(behaviour, MaskBehaviour)
        else _distribution_eligibility(batch, behaviour, stimulus, compared, weighting)
        for behaviour in behaviours
    ]
    return Plan(
        batch=batch,
        window=window,
        behaviours=tuple(behaviours),
        eligibility=tuple(eligibility),
        compared=compared,
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


def _mask_eligibility(queries: Tensor, null: Tensor, weighting: Weighting) -> Eligibility:
    takes_part = queries.any(dim=-1)
    found = Eligibility(queries=queries, n_sequences=int(takes_part.sum()), weighting=weighting)
    chance = null * found.weight(queries)
    units = chance.sum(dim=-1)[takes_part] if found.by_sequence else chance[queries]
    return replace(found, null=units)


def _distribution_eligibility(
    batch: TokenBatch,
    behaviour: DistributionBehaviour,
    stimulus: str,
    compared: Sequence[tuple[int, int]],
    weighting: Weighting,
) -> Eligibility:
    sequences, lengths = torch.arange(len(batch)), batch.lengths
    if behaviour.compares_sequences:
        sequences = torch.tensor(compared, dtype=torch.long).view(-1, 2)
        lengths = lengths[sequences].amin(dim=-1)
    position = torch.arange(batch.ids.shape[1])
    queries = (position >= behaviour.first_query) & (position < lengths[:, None])
    queries &= stimulus not in behaviour.excluded_stimuli
    takes_part = sequences[queries.any(dim=-1)].unique()
    return Eligibility(queries=queries, n_sequences=len(takes_part), weighting=weighting)


def compares_on(behaviour: AnyBehaviour, stimulus: str) -> bool:
    """Whether a behaviour compares the sequences of a stimulus."""
    return (
        isinstance(behaviour, DistributionBehaviour)
        and behaviour.compares_sequences
        and stimulus not in behaviour.excluded_stimuli
    )


def compared_pairs(batch: TokenBatch, *, pads: bool = True) -> tuple[tuple[int, int], ...]:
    """Which texts are compared: each with the next `COMPARED_WITH`, in a circle.

    The texts stand in the order of a digest of their ids, which is as good as a random one and does
    not change with the order of the prompts. Of equal texts one takes part. Without `pads`, texts
    of unequal length do not run together, and are not compared.
    """
    first: dict[bytes, int] = {}
    for index in range(len(batch)):
        ids = batch.sequence(index).to(torch.long).contiguous().numpy().tobytes()
        first.setdefault(hashlib.sha256(ids).digest(), index)
    order = [first[digest] for digest in sorted(first)]
    n = len(order)
    return tuple(
        (order[place], order[(place + distance) % n])
        for place in range(n)
        for distance in range(1, min(COMPARED_WITH, n // 2) + 1)
        # Half way around a circle, a pair would come twice.
        if (2 * distance < n or place < distance)
        and (pads or batch.lengths[order[place]] == batch.lengths[order[(place + distance) % n]])
    )
