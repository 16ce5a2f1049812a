"""What explains a verdict on a set: its layers, heads that other sets share, shares, stand-ins.

1. Each layer's part of the set is ablated alone, next to other sets of as many heads of the layer.
2. Of the random sets that reach the change: which few heads they share, greedily, and what each of
   these does alone.
3. Shapley values (Shapley 1953; sampled orders, Castro et al. 2009): a head's mean marginal change
   over orders of the set. Orders are drawn in pairs, each with its reverse: of two heads that do
   the same, one comes first in each of the two. A few heads have all their orders.
4. Backups: heads without the label that add more to the set's ablation than they do alone. Wang et
   al. (2022) found such heads for the name movers of GPT-2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import torch
from jaxtyping import Float
from scipy.special import stdtr
from torch import Tensor

from mi_toolkit.core.errors import PromptError
from mi_toolkit.core.head import Head
from mi_toolkit.core.model import attention_layers
from mi_toolkit.core.random_sets import RandomSets, random_sets
from mi_toolkit.core.stats import false_discovery_rates
from mi_toolkit.interventions.confirm.confirmation import (
    Backup,
    Explanation,
    LayerPart,
    ShapleyValue,
    SharedHead,
)
from mi_toolkit.interventions.confirm.hypotheses import Hypothesis
from mi_toolkit.interventions.confirm.losses import TOO_FEW, HeadSet, PairedChanges, rows_to_a_pass
from mi_toolkit.interventions.confirm.setting import (
    AblationConfig,
    LossTable,
    every_head,
    sequence_of_query,
)

LAYER_SETS = 40
"""Other sets of a layer's heads that stand next to the set's part there, at most."""

MAX_SHARED = 6
MAX_ORDERS = 1000

ROUNDING = 1e-5
"""Nats by which a loss changes with the rows that run next to it: no standard error is smaller."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """What is to be ablated for one claim about a set of heads."""

    claim: Hypothesis
    null: RandomSets
    layers: Mapping[HeadSet, RandomSets]
    """Each layer's part of the set, and others of its kind; none where the set is in one layer."""

    neighbours: tuple[Head, ...]
    """All heads of the set's layers."""

    orders: tuple[tuple[int, ...], ...]
    """Orders of the set's heads, each second one the reverse of the first before it or all."""

    unlabelled: tuple[Head, ...]
    """Heads that may stand in; none where nobody asks."""

    @staticmethod
    def of(
        setting: AblationConfig, claim: Hypothesis, null: RandomSets, *, budget: int | None
    ) -> Plan:
        """The plan.

        Args:
            setting: how the heads are ablated.
            claim: the set.
            null: the random sets to rank it among.
            budget: passes that its Shapley values may take; None for no Shapley values.

        Raises:
            PromptError: too small a budget for the set.
        """
        model, n_heads = setting.model, int(setting.model.cfg.n_heads)
        layers = sorted({head.layer for head in claim.heads})
        parts = [tuple(head for head in claim.heads if head.layer == layer) for layer in layers]
        draw = setting.generator()
        orders: tuple[tuple[int, ...], ...] = ()
        unlabelled: tuple[Head, ...] = ()
        if budget is not None:
            # Of passes as they are by default: batch_size decides how they run, not what is drawn.
            rows = rows_to_a_pass(model, claim.queries)
            orders = _orders(claim, budget // len(claim.batch) * rows, draw)
            every = every_head(model, attention_layers(model))
            unlabelled = tuple(head for head in every if head not in claim.heads)
        return Plan(
            claim=claim,
            null=null,
            layers={
                part: random_sets(part, n_heads=n_heads, n_sets=LAYER_SETS, generator=draw)
                for part in parts
                if len(parts) > 1
            },
            neighbours=tuple(every_head(model, layers)),
            orders=orders,
            unlabelled=unlabelled,
        )

    def sets(self) -> Iterator[HeadSet]:
        """Every set that is to be ablated, some more than once."""
        heads = self.claim.heads
        yield heads
        yield from self.null.sets
        for part, others in self.layers.items():
            yield part
            yield from others.sets
        yield from ((head,) for head in self.neighbours)
        for order in self.orders:
            yield from _prefixes(heads, order)
        for head in self.unlabelled:
            yield (head,)
            yield tuple(sorted((*heads, head)))

    def explained(self, table: LossTable, alpha: float) -> Explanation:
        """What the losses say."""
        claim, sequence = self.claim, sequence_of_query(self.claim)

        def paired(sets: Sequence[HeadSet]) -> PairedChanges:
            return PairedChanges.of(table.changes(claim, sets), sequence)

        together = paired([claim.heads, *self.null.sets]).mean.float() * claim.direction
        reaching = together[1:] >= together[0]
        shared, held = self._shared(paired([(head,) for head in self.neighbours]), reaching)
        return Explanation(
            layers=tuple(
                _layer_part(part, paired([part, *others.sets]), claim.direction)
                for part, others in self.layers.items()
            ),
            n_reaching=int(reaching.sum()),
            shared=shared,
            n_without=int((~held).sum()),
            n_reaching_without=int((reaching & ~held).sum()),
            n_orders=len(self.orders),
            shapley=self._shapley(table) if self.orders else (),
            backups=self._backups(paired, alpha) if self.orders else None,
        )

    def _shared(
        self, alone: PairedChanges, reaching: Tensor
    ) -> tuple[tuple[SharedHead, ...], Tensor]:
        """Heads that the reaching sets share, and which random sets hold one of them."""
        change, error = alone.estimate(lambda change: change)
        low, high = change - alone.t * error, change + alone.t * error
        holds = torch.tensor(
            [[head in drawn for head in self.neighbours] for drawn in map(set, self.null.sets)]
        ).reshape(len(self.null.sets), len(self.neighbours))
        held = torch.zeros(len(self.null.sets), dtype=torch.bool)
        chosen: list[int] = []
        while len(chosen) < MAX_SHARED and bool((reaching & ~held).any()):
            left, rest = reaching & ~held, ~reaching & ~held
            separation = holds[left].float().mean(dim=0)
            if rest.any():
                separation = separation - holds[rest].float().mean(dim=0)
            best = int(separation.argmax())
            if separation[best] <= 0:
                break
            chosen.append(best)
            held = held | holds[:, best]
        return tuple(
            SharedHead(
                head=self.neighbours[index],
                labelled=self.neighbours[index] in self.claim.heads,
                change=float(change[index]),
                change_low=float(low[index]),
                change_high=float(high[index]),
                n_reaching=int((reaching & holds[:, index]).sum()),
                n_sets=int(holds[:, index].sum()),
            )
            for index in chosen
        ), held

    def _shapley(self, table: LossTable) -> tuple[ShapleyValue, ...]:
        heads, orders = self.claim.heads, torch.tensor(self.orders)
        prefixes = [list(_prefixes(heads, order)) for order in self.orders]
        distinct = list(dict.fromkeys(each for chain in prefixes for each in chain))
        singles = [(head,) for head in heads]
        where = {each: index for index, each in enumerate(distinct)}
        index = torch.tensor([[where[each] for each in chain] for chain in prefixes])
        paired = PairedChanges.of(
            table.changes(self.claim, [*distinct, *singles]), sequence_of_query(self.claim)
        )

        def marginal(change: Tensor) -> Float[Tensor, "draw order head"]:
            added = change[:, index].diff(dim=2)
            return added.gather(2, orders.argsort(dim=1).expand(len(change), -1, -1))

        value, of_text = paired.estimate(lambda change: marginal(change).mean(dim=1))
        of_orders = torch.zeros_like(value)
        if len(set(self.orders)) < math.factorial(len(heads)):
            pairs = marginal(paired.mean[None])[0].unflatten(0, (-1, 2)).mean(dim=1)
            of_orders = pairs.std(dim=0) / math.sqrt(len(pairs))
        error = (of_text.square() + of_orders.square()).sqrt()
        alone = paired.mean[len(distinct) :]
        rows = zip(heads, *(t.tolist() for t in (value, error, of_orders, alone)), strict=True)
        found = [
            ShapleyValue(
                head=head, value=share, standard_error=spread, order_error=drawn, alone=single
            )
            for head, share, spread, drawn, single in rows
        ]
        return tuple(sorted(found, key=lambda each: -self.claim.direction * each.value))

    def _backups(
        self, paired: Callable[[Sequence[HeadSet]], PairedChanges], alpha: float
    ) -> tuple[Backup, ...]:
        heads, n_others = self.claim.heads, len(self.unlabelled)
        if not n_others:
            return ()
        changes = paired(
            [
                heads,
                *((head,) for head in self.unlabelled),
                *(tuple(sorted((*heads, head))) for head in self.unlabelled),
            ]
        )
        if changes.interval == TOO_FEW:
            return ()
        alone = changes.mean[1 : n_others + 1]
        after = changes.mean[n_others + 1 :] - changes.mean[0]

        def grown(change: Tensor) -> Tensor:
            added = change[:, n_others + 1 :] - change[:, :1]
            return self.claim.direction * (added - change[:, 1 : n_others + 1])

        growth, error = changes.estimate(grown)
        error = error.clamp_min(ROUNDING)
        low, high = growth - changes.t * error, growth + changes.t * error
        p = stdtr(len(changes.denominator) - 1, -(growth / error).numpy())
        rates = false_discovery_rates(torch.as_tensor(p)).tolist()
        found = [
            Backup(
                head=head,
                alone=float(alone[index]),
                after=float(after[index]),
                growth=float(growth[index]),
                growth_low=float(low[index]),
                growth_high=float(high[index]),
                q=float(rates[index]),
            )
            for index, head in enumerate(self.unlabelled)
            if low[index] > 0 and rates[index] <= alpha
        ]
        return tuple(sorted(found, key=lambda each: -each.growth))


def _layer_part(part: HeadSet, changes: PairedChanges, direction: int) -> LayerPart:
    change, error = changes.estimate(lambda change: change[:, :1])
    own, beside = changes.mean[0].float(), changes.mean[1:].float()
    return LayerPart(
        heads=part,
        change=float(own),
        change_low=float(change - changes.t * error),
        change_high=float(change + changes.t * error),
        others=beside,
        rank=1 + int((direction * beside >= direction * own).sum()),
    )


def _prefixes(heads: HeadSet, order: Sequence[int]) -> Iterator[HeadSet]:
    for length in range(len(order) + 1):
        yield tuple(sorted(heads[index] for index in order[:length]))


def _orders(claim: Hypothesis, n_sets: int, draw: torch.Generator) -> tuple[tuple[int, ...], ...]:
    """All orders of the heads, or pairs of orders as far as the sets that they need go."""
    n_heads = len(claim.heads)
    if math.factorial(n_heads) <= MAX_ORDERS and 2**n_heads - 2 <= n_sets:
        return tuple(permutations(range(n_heads)))
    orders: list[tuple[int, ...]] = []
    known: set[frozenset[int]] = set()
    while len(orders) < MAX_ORDERS:
        order = tuple(torch.randperm(n_heads, generator=draw).tolist())
        pair = (order, order[::-1])
        needed = known | {frozenset(each[:k]) for each in pair for k in range(1, n_heads)}
        if len(needed) > n_sets:
            break
        known, orders = needed, [*orders, *pair]
    if len(orders) < 4:
        raise PromptError(
            f"Shapley values of the {n_heads} heads of {claim.label} need two pairs of orders, and "
            f"up to {4 * (n_heads - 1)} sets on {len(claim.batch)} sequences: more passes than "
            "budget= allows. Raise it, or take fewer sequences."
        )
    return tuple(orders)
