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
from mi_toolkit.heads.rows import RowFigures, per_mass, row_entropy
from mi_toolkit.heads.scores import top_share


@dataclass(frozen=True, kw_only=True, eq=False)
class PatternBlock:
    """Patterns of some sequences, heads and queries of a batch; gone when the next one comes."""

    patterns: Float[Tensor, "sequence head query key"]
    """Attention after softmax in float32, contiguous; the last key is the last query's own."""

    first_sequence: int
    first_head: int
    first_query: int
    first_key: int

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
    """

    def __init__(
        self, plan: Plan, sequences: Sequence[int], n_fresh: int, shape: tuple[int, int, int]
    ) -> None:
        self.plan, self.sequences, self.n_fresh = plan, sequences, n_fresh
        self.needs = needs_of(plan)
        self.top_only = torch.tensor([mask.top_only for mask in plan.masks], dtype=torch.bool)
        self.attended = torch.zeros(len(plan.masks), *shape)
        self._figures = {
            name: torch.zeros(shape)
            for name in ("non_sink_mass", "mean_key", "own", "entropy", "to_next")
        }
        self._last: tuple[tuple[int, int, int], Tensor] | None = None

    @property
    def figures(self) -> RowFigures:
        """What the distribution scores need, once every block was read."""
        kept = {name: figure[: self.n_fresh] for name, figure in self._figures.items()}
        return RowFigures(**kept, window=self.plan.window)

    @property
    def following(self) -> RowFigures:
        """The same of each sequence's next one; behind the last, nothing that counts."""
        turned = {
            name: figure.roll(-1, dims=0)[: self.n_fresh] for name, figure in self._figures.items()
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
        for index in range(n_sequences if len(self.plan.masks) else 0):
            place = block.first_sequence + index
            self.attended[(slice(None), place, *at[1:])] = self._attended(
                self.sequences[place], block, index
            )
        kept = self._figures
        if self.needs & {"mass", "distance", "variation"}:
            sink = block.patterns[..., 0] if block.first_key == 0 else 0
            kept["non_sink_mass"][at] = (block.patterns.sum(dim=-1) - sink).cpu()
        if "distance" in self.needs:
            kept["mean_key"][at] = mean_key(block).cpu()
            kept["own"][at] = own_attention(block).cpu()
        if "entropy" in self.needs:
            entropy = row_entropy(block.patterns) if block.entropy is None else block.entropy
            kept["entropy"][at] = entropy.cpu()
        if "variation" in self.needs:
            self._compare(block, kept["non_sink_mass"][at], at)

    def _attended(
        self, sequence: int, block: PatternBlock, index: int
    ) -> Float[Tensor, "mask head query"]:
        _, n_heads, n_queries, n_keys = block.patterns.shape
        patterns, n_masks = block.patterns[index], len(self.plan.masks)
        targets = self.plan.targets(sequence)
        stop = min(block.first_query + n_queries, targets.length)
        summed = patterns.new_zeros(n_heads, n_masks * n_queries)
        if block.first_query < stop:
            mask, query, key = targets.cells(block.first_query, stop)
            row, column = query - block.first_query, key - block.first_key
            cells = (row * n_keys + column).to(patterns.device)
            picked = patterns.reshape(n_heads, -1).index_select(1, cells)
            if self.top_only.any():
                only = self.top_only[mask]
                picked[:, only] = top_share(patterns)[:, row[only], column[only]]
            summed.index_add_(1, (mask * n_queries + row).to(patterns.device), picked)
        return summed.view(n_heads, n_masks, n_queries).transpose(0, 1).cpu()

    def _compare(self, block: PatternBlock, mass: Tensor, at: tuple[slice, slice, slice]) -> None:
        rows = block.patterns * per_mass(mass).to(block.patterns.device)[..., None]
        if block.first_key == 0:
            rows[..., 0] = 0
        to_next = self._figures["to_next"]
        place = (block.first_head, block.first_query, block.first_sequence)
        if self._last is not None and self._last[0] == place:
            to_next[(at[0].start - 1, *at[1:])] = half_distance(self._last[1], rows[0]).cpu()
        if len(rows) > 1:
            earlier = (slice(at[0].start, at[0].stop - 1), *at[1:])
            to_next[earlier] = half_distance(rows[:-1], rows[1:]).cpu()
        self._last = ((*place[:2], at[0].stop), rows[-1].clone())


def needs_of(plan: Plan) -> set[RowNeed]:
    """What the plan's distribution behaviours read of each row, where they can count at all."""
    return {
        need
        for behaviour, eligibility in zip(plan.behaviours, plan.eligibility, strict=True)
        if isinstance(behaviour, DistributionBehaviour) and eligibility.n_sequences
        for need in behaviour.needs or ()
    }


def mean_key(block: PatternBlock) -> Float[Tensor, "sequence head query"]:
    """The mean position that each row attends to."""
    n_keys, patterns = block.patterns.shape[-1], block.patterns
    first = block.first_key
    keys = torch.arange(first, first + n_keys, dtype=patterns.dtype, device=patterns.device)
    return patterns @ keys


def own_attention(block: PatternBlock) -> Float[Tensor, "sequence head query"]:
    """The attention of each row on its own position."""
    offset = block.first_query - block.first_key
    return block.patterns.diagonal(offset=offset, dim1=-2, dim2=-1)


def half_distance(
    here: Float[Tensor, "*rows key"], there: Float[Tensor, "*rows key"]
) -> Float[Tensor, "*rows"]:
    """Total variation between rows that sum to 1."""
    return (here - there).abs_().sum(dim=-1) / 2
