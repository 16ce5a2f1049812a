"""Where there is something to copy: the queries of a sequence that match a prefix, and the ids."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.heads.direct_effect import EffectiveUnembedding
from mi_toolkit.heads.plan import Plan

HELD_TARGETS = 2**18
"""Target keys that are held, of whole sequences: those of a batch, unless it is of long texts."""

TARGETS_AT_ONCE = 8192
"""Target keys whose directions are held together; long texts have millions."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CopyQueries:
    """The queries of one sequence that have something to copy, and what."""

    positions: Int[Tensor, " query"]
    """Where they are."""

    ids: Int[Tensor, " target"]
    """The ids to copy, query after query."""

    owner: Int[Tensor, " target"]
    """Which query each of them belongs to."""

    def directions(self, unembedding: EffectiveUnembedding) -> Float[Tensor, "query d_model"]:
        """Per query: the mean direction of the ids to copy."""
        n_queries = len(self.positions)
        total = unembedding.covariance.new_zeros(n_queries, len(unembedding.covariance))
        for ids, owner in zip(
            self.ids.split(TARGETS_AT_ONCE), self.owner.split(TARGETS_AT_ONCE), strict=True
        ):
            total.index_add_(0, owner.to(total.device), unembedding.directions(ids))
        counts = self.owner.bincount(minlength=n_queries).to(total)
        return total / counts[:, None]


def copy_queries(
    ids: Int[Tensor, " position"], query: Int[Tensor, " target"], key: Int[Tensor, " target"]
) -> CopyQueries:
    """The queries and what each would copy, from the target keys of a sequence."""
    positions, owner = query.unique(return_inverse=True)
    return CopyQueries(positions=positions, ids=ids[key], owner=owner)


class CopyQueriesOfPlan:
    """The queries of each sequence that have something to copy, for one mask behaviour of a plan.

    Made when they are asked for, which every layer does in turn: those of the last sequences are
    held, not those of a whole sweep.
    """

    def __init__(self, plan: Plan, behaviour: int) -> None:
        self.plan, self.behaviour = plan, behaviour
        self._held: dict[int, CopyQueries] = {}

    @property
    def counts(self) -> Int[Tensor, " sequence"]:
        """How many queries of each sequence have something to copy."""
        return self.plan.eligibility[self.behaviour].queries.sum(dim=-1)

    def __getitem__(self, index: int) -> CopyQueries:
        if index not in self._held:
            if sum(len(each.ids) for each in self._held.values()) >= HELD_TARGETS:
                self._held.clear()
            ids = self.plan.batch.sequence(index)
            self._held[index] = copy_queries(ids, *self.plan.pairs(self.behaviour, index))
        return self._held[index]
