"""The figures of rows of attention, read block by block: each pattern is seen once and dropped.

A block holds some sequences' patterns for some heads and queries. Of each row stay the attention
on every mask behaviour's target keys and the numbers that the distribution scores ask for. No
two rows are looked at one by one: heads and queries go together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mi_toolkit.heads.kinds import DistributionBehaviour, RowNeed
from mi_toolkit.heads.plan import Plan
from mi_toolkit.heads.rows import RowFigures, mean_key, per_mass, row_entropy
from mi_toolkit.heads.scores import top_share


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

    Blocks of the same heads and queries come one behind the other, sequence by sequence: a row is
    compared with the same row of the sequence before.

    Args:
        plan: of the layer's window.
        sequences: the places in the plan of the sequences shown.
        n_fresh: how many of them are measured; one more may be shown to compare the last with.
        shape: sequences shown, heads and queries.
        device: where the patterns are.
    """

    def __init__(
        self,
        plan: Plan,
        sequences: Sequence[int],
        n_fresh: int,
        shape: tuple[int, int, int],
        device: torch.device | str = "cpu",
    ) -> None:
        self.plan, self.sequences, self.n_fresh = plan, sequences, n_fresh
        self.needs = needs_of(plan)
        self._top_only = [i for i, mask in enumerate(plan.masks) if mask.top_only]
        self._targets = [plan.targets(sequence) for sequence in sequences]
        n_sequences, n_heads, n = shape
        # One row of queries for each mask; behind them each query's own attention, and the sink's.
        self._gathered = torch.zeros(n_sequences, n_heads, (len(plan.masks) + 2) * n, device=device)
        self._total = torch.ones(shape, device=device)
        self._mean_key, self._entropy, self._to_next = torch.zeros(3, *shape, device=device)
        self._position = torch.arange(n, dtype=torch.float32, device=device)
        self._last: tuple[tuple[int, int, int], Tensor] | None = None

    @property
    def attended(self) -> Float[Tensor, "mask sequence head query"]:
        """The attention on each mask's target keys."""
        return self._row_figures[:-2]

    @property
    def figures(self) -> RowFigures:
        """What the distribution scores need, once every block was read."""
        return self._figures(0)

    @property
    def following(self) -> RowFigures:
        """The same of each sequence's next one; behind the last, nothing that counts."""
        return self._figures(-1)

    @property
    def _row_figures(self) -> Float[Tensor, "row sequence head query"]:
        n_sequences, n_heads, _ = self._gathered.shape
        rows = self._gathered.view(n_sequences, n_heads, -1, len(self._position))
        return rows.movedim(2, 0).cpu()

    def _figures(self, turn: int) -> RowFigures:
        own, sink = self._row_figures[-2:]
        figures = {
            "non_sink_mass": self._total.cpu() - sink,
            "mean_key": self._mean_key.cpu(),
            "own": own,
            "entropy": self._entropy.cpu(),
            "to_next": self._to_next.cpu(),
        }
        turned = {
            name: figure.roll(turn, dims=0)[: self.n_fresh] for name, figure in figures.items()
        }
        return RowFigures(**turned, window=self.plan.window)

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
        if "variation" in self.needs:
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
        to_next = self._to_next
        place = (block.first_head, block.first_query, block.first_sequence)
        if self._last is not None and self._last[0] == place:
            to_next[(at[0].start - 1, *at[1:])] = half_distance(self._last[1], rows[0])
        if len(rows) > 1:
            earlier = (slice(at[0].start, at[0].stop - 1), *at[1:])
            to_next[earlier] = half_distance(rows[:-1], rows[1:])
        self._last = ((*place[:2], at[0].stop), rows[-1].clone())


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
