"""The figures of rows of attention, read block by block: each pattern is seen once and dropped.

A block holds some sequences' patterns for some heads and queries. Of each row stay the attention
on every mask behaviour's target keys and the numbers that the distribution scores ask for. No
two rows are looked at one by one: heads and queries go together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from mi_toolkit.heads.kinds import DistributionBehaviour, RowNeed
from mi_toolkit.heads.plan import Plan
from mi_toolkit.heads.scores import RowFigures, mean_key, per_mass, row_entropy, top_share


@dataclass(frozen=True, kw_only=True, eq=False)
class PatternBlock:
    """Patterns of some sequences, heads and queries of a batch; gone when the next one comes."""

    patterns: Float[Tensor, "sequence head query key"]
    """Attention after softmax in float32, contiguous; the last key is the last query's own,
    or the last of all where the layer looks ahead."""

    first_sequence: int
    first_head: int
    first_query: int
    first_key: int

    sums_to_one: bool = False
    """Whether each row sums to 1 as exactly as float32 can."""

    entropy: Float[Tensor, "sequence head query"] | None = None
    """Of each row, where it fell out of the softmax."""


class BlockReader:
    """Reads the figures of one layer off its blocks, for one batch of sequences.

    Blocks of the same heads and queries come one after the other, sequence by sequence. Rows that
    later sequences are compared with are held until then; no more than a block of each.

    Args:
        plan: of the layer's window.
        sequences: the places in the plan of the sequences shown.
        n_fresh: how many of them are measured; the rest is shown to be compared with.
        shape: sequences shown, heads and queries.
        compared: the places, among the sequences shown, of the pairs that are compared.
        device: where the patterns are.
    """

    def __init__(
        self,
        plan: Plan,
        sequences: Sequence[int],
        n_fresh: int,
        shape: tuple[int, int, int],
        compared: Sequence[tuple[int, int]] = (),
        device: torch.device | str = "cpu",
    ) -> None:
        self.plan, self.sequences, self.n_fresh = plan, sequences, n_fresh
        self.compared = compared
        self.needs = needs_of(plan)
        self._top_only = [i for i, mask in enumerate(plan.masks) if mask.top_only]
        self._targets = [plan.targets(sequence) for sequence in sequences]
        n_sequences, n_heads, n = shape
        # One row of queries for each mask; after them each query's own attention, and the sink's.
        self._gathered = torch.zeros(n_sequences, n_heads, (len(plan.masks) + 2) * n, device=device)
        self._total = torch.ones(shape, device=device)
        self._mean_key, self._entropy = torch.zeros(2, *shape, device=device)
        self._variation = torch.zeros(len(compared), n_heads, n, device=device)
        self._position = torch.arange(n, dtype=torch.float32, device=device)
        # For each sequence: the pairs that it completes, each with its earlier sequence.
        self._completes: dict[int, list[tuple[int, int]]] = {}
        for pair, places in enumerate(compared):
            self._completes.setdefault(max(places), []).append((pair, min(places)))
        self._held: dict[int, Tensor] = {}

    @property
    def attended(self) -> Float[Tensor, "mask sequence head query"]:
        """The attention on each mask's target keys."""
        return self._row_figures[:-2]

    @property
    def figures(self) -> RowFigures:
        """What distribution scores need of the measured sequences, once every block was read."""
        return self._figures(range(self.n_fresh))

    @property
    def figures_of_pairs(self) -> tuple[RowFigures, RowFigures]:
        """The same of both sequences of each pair that is compared."""
        first, second = ([pair[side] for pair in self.compared] for side in (0, 1))
        variation = self._variation.cpu()
        return (
            replace(self._figures(first), to_other=variation),
            replace(self._figures(second), to_other=variation),
        )

    @property
    def _row_figures(self) -> Float[Tensor, "row sequence head query"]:
        n_sequences, n_heads, _ = self._gathered.shape
        rows = self._gathered.view(n_sequences, n_heads, -1, len(self._position))
        return rows.movedim(2, 0).cpu()

    def _figures(self, places: Sequence[int]) -> RowFigures:
        own, sink = self._row_figures[-2:]
        chosen = torch.tensor(places, dtype=torch.long)
        mass = (self._total.cpu() - sink)[chosen]
        return RowFigures(
            non_sink_mass=mass,
            mean_key=self._mean_key.cpu()[chosen],
            own=own[chosen],
            entropy=self._entropy.cpu()[chosen],
            to_other=torch.zeros_like(mass),
            window=self.plan.window,
        )

    def read(self, block: PatternBlock) -> None:
        """Take the figures of one block."""
        n_sequences, n_heads, n_queries, _ = block.patterns.shape
        at = (
            slice(block.first_sequence, block.first_sequence + n_sequences),
            slice(block.first_head, block.first_head + n_heads),
            slice(block.first_query, block.first_query + n_queries),
        )
        for index in range(n_sequences):
            self._gather(block, index, at[1])
        if not block.sums_to_one:
            self._total[at] = block.patterns.sum(dim=-1)
        if "distance" in self.needs:
            positions = self._position[block.first_key :][: block.patterns.shape[-1]]
            self._mean_key[at] = mean_key(
                block.patterns, positions, self.plan.window, first_query=block.first_query
            )
        if "entropy" in self.needs:
            entropy = row_entropy(block.patterns) if block.entropy is None else block.entropy
            self._entropy[at] = entropy
        if "variation" in self.needs and self.compared:
            self._compare(block, at)

    def _gather(self, block: PatternBlock, index: int, heads: slice) -> None:
        """Add up the attention on the target keys of one of the block's sequences."""
        patterns, place = block.patterns[index], block.first_sequence + index
        n_queries, n_keys = patterns.shape[1:]
        cells, slots = self._targets[place].gathered(
            block.first_query, n_queries, block.first_key, n_keys, len(self._position)
        )
        cells, slots = cells.to(patterns.device), slots.to(patterns.device)
        picked = patterns.flatten(1).index_select(1, cells)
        for mask in self._top_only:
            only = slots // len(self._position) == mask
            picked[:, only] = top_share(patterns).flatten(1)[:, cells[only]]
        self._gathered[place, heads].index_add_(1, slots, picked)

    def _compare(self, block: PatternBlock, at: tuple[slice, slice, slice]) -> None:
        rows = block.patterns * per_mass(non_sink_mass(block))[..., None]
        if block.first_key == 0:
            rows[..., 0] = 0
        sequences = range(at[0].start, at[0].stop)
        if sequences.start == 0:
            self._held.clear()
        for place, own in zip(sequences, rows, strict=True):
            for pair, earlier in self._completes.get(place, ()):
                other = (
                    rows[earlier - sequences.start] if earlier in sequences else self._held[earlier]
                )
                self._variation[(pair, *at[1:])] = half_distance(other, own)
        for place in list(self._held):
            if self._last_wanted(place) < sequences.stop:
                del self._held[place]
        for place, own in zip(sequences, rows, strict=True):
            if self._last_wanted(place) >= sequences.stop:
                self._held[place] = own.clone()

    def _last_wanted(self, place: int) -> int:
        """The last sequence that is compared with an earlier one; -1 without."""
        return max((max(pair) for pair in self.compared if min(pair) == place), default=-1)


def needs_of(plan: Plan) -> set[RowNeed]:
    """What the plan's distribution behaviours read of each row, where they can count at all."""
    return {
        need
        for behaviour, eligibility in zip(plan.behaviours, plan.eligibility, strict=True)
        if isinstance(behaviour, DistributionBehaviour) and eligibility.n_sequences
        for need in behaviour.needs or ()
    }


def non_sink_mass(block: PatternBlock) -> Float[Tensor, "sequence head query"]:
    """The attention of each row off position 0."""
    sink = block.patterns[..., 0] * (block.first_key == 0)
    return (1 if block.sums_to_one else block.patterns.sum(dim=-1)) - sink


def half_distance(
    here: Float[Tensor, "*rows key"], there: Float[Tensor, "*rows key"]
) -> Float[Tensor, "*rows"]:
    """Total variation between rows that sum to 1."""
    return (here - there).abs_().sum(dim=-1) / 2
