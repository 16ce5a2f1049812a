"""Measuring behaviours while a model runs: figures of rows in, a few sums per unit out.

A unit is what an interval is over: a sequence, or a query where there are too few sequences. Of
each layer's patterns only a numerator and a denominator per behaviour, unit and head are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_toolkit.heads.block_figures import BlockReader
from mi_toolkit.heads.kinds import DistributionBehaviour
from mi_toolkit.heads.plan import Plan
from mi_toolkit.heads.scores import PatternRows, QueryTerms, RowFigures


@dataclass(frozen=True, kw_only=True, eq=False)
class UnitSums:
    """What each unit adds to one behaviour's figure, in the layers of one window."""

    numerator: Float[Tensor, "unit layer head"]
    """0 where the unit is not eligible for the head."""

    denominator: Float[Tensor, "unit own_layer own_head"]
    """0 where the unit is not eligible for the head; one for all where heads cannot differ."""

    null: Float[Tensor, " unit"] | None
    """The numerator of chance; None for a distribution behaviour."""

    lengths: tuple[int, ...] | None
    """Where the units are queries: how many each sequence has, one after the other."""

    units_to_term: int
    """2 where a term is of a pair of sequences, and stands in the sums of both; else 1."""

    n_queries: Int[Tensor, "layer head"]
    """How many queries each head was measured on."""


class _Chosen(NamedTuple):
    """What one behaviour takes of a batch, in every layer alike."""

    takes_part: Bool[Tensor, " row"]
    """Which of the batch's sequences or pairs have eligible queries; the rest is of those alone."""

    rows: Int[Tensor, " kept"]
    """Their rows in the sums."""

    eligible: Float[Tensor, "kept 1 query"]
    """1 for an eligible query."""

    weight: Float[Tensor, "kept 1 query"]
    """How much each eligible query counts (see `Eligibility.weight`)."""

    n_queries: int


class Measurement:
    """The sums of the layers of one window over one stimulus, filled as patterns arrive.

    All that it has summed is in `tensors`, by name: put back, it goes on where it stood.
    """

    def __init__(self, plan: Plan, layers: Sequence[int], n_heads: int) -> None:
        self.plan = plan
        self.place = {layer: place for place, layer in enumerate(layers)}
        heads = (len(layers), n_heads)
        self._n_queries = torch.zeros(len(plan.behaviours), *heads, dtype=torch.long)
        self._row: list[Tensor] = []
        self._batch: tuple[tuple[int, ...], int] | None = None
        self._of_batch: dict[int, _Chosen | None] = {}
        self._place_of_pair = {pair: place for place, pair in enumerate(plan.compared)}
        self._sums: list[tuple[Tensor, Tensor]] = []
        for index, behaviour in enumerate(plan.behaviours):
            eligibility = plan.eligibility[index]
            takes_part = eligibility.queries.any(dim=-1)
            self._row.append(takes_part.cumsum(dim=0) - 1)
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

    def blank(self, name: str) -> float:
        """What a tensor's rows hold before anything is summed."""
        return 0.0

    def clear(self) -> None:
        """Forget what was summed."""
        for name, held in self.tensors.items():
            held.fill_(self.blank(name))

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` once held."""
        for name, held in self.tensors.items():
            held.copy_(tensors[name])

    def join(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what another measurement summed of other sequences of the stimulus.

        What this one has of them is 0: the figures are those of one measurement of all, exactly.
        """
        for name, held in self.tensors.items():
            held += tensors[name]

    def add(self, layer: int, reader: BlockReader) -> None:
        """Take the rows of one layer for the reader's sequences."""
        figures = reader.figures
        pairs = reader.figures_of_pairs if reader.compared else None
        n = figures.own.shape[-1]
        masks = iter(reader.attended[:, : reader.n_fresh])
        for index, behaviour in enumerate(self.plan.behaviours):
            chosen = self._chosen(index, reader, n)
            if not isinstance(behaviour, DistributionBehaviour):
                attended = next(masks)
                if chosen is not None:
                    self._keep_mask(index, layer, chosen, attended)
            elif behaviour.needs is not None and chosen is not None:
                rows: RowFigures = figures
                following: RowFigures | None = None
                if behaviour.compares_sequences and pairs is not None:
                    rows, following = pairs
                terms = QueryTerms(*behaviour.terms(rows, following))
                self._keep_distribution(index, layer, chosen, terms, behaviour.pools_queries)

    def add_whole(
        self, layer: int, reader: BlockReader, rows_of: Callable[[int], PatternRows]
    ) -> None:
        """Take whole patterns, by their places in the batch, for the behaviours that want them."""
        for index, behaviour in enumerate(self.plan.behaviours):
            if not isinstance(behaviour, DistributionBehaviour) or behaviour.needs is not None:
                continue
            places: Sequence[tuple[int, int | None]] = reader.compared
            if not behaviour.compares_sequences:
                places = [(place, None) for place in range(reader.n_fresh)]
            for place, other in places:
                rows = rows_of(place)
                chosen = self._of_row(index, reader, place, other, rows.patterns.shape[-2])
                if chosen is not None:
                    following = None if other is None else rows_of(other)
                    numerator, denominator = behaviour.measured(rows, following)
                    terms = QueryTerms(numerator[None].cpu(), denominator[None].cpu())
                    self._keep_distribution(index, layer, chosen, terms, behaviour.pools_queries)

    def _of_row(
        self, index: int, reader: BlockReader, place: int, other: int | None, n: int
    ) -> _Chosen | None:
        """What one behaviour takes of one sequence, or of a pair."""
        row = reader.sequences[place]
        if other is not None:
            row = self._place_of_pair[row, reader.sequences[other]]
        return self._take(index, [row], n)

    def _chosen(self, index: int, reader: BlockReader, n: int) -> _Chosen | None:
        """What one behaviour takes of a batch; None where nothing is eligible."""
        sequences = tuple(reader.sequences)
        if self._batch != (sequences, n):
            # Every layer of a batch takes the same.
            self._batch, self._of_batch = (sequences, n), {}
        if index not in self._of_batch:
            behaviour, rows = self.plan.behaviours[index], list(sequences[: reader.n_fresh])
            if isinstance(behaviour, DistributionBehaviour) and behaviour.compares_sequences:
                pairs = [(sequences[one], sequences[other]) for one, other in reader.compared]
                rows = [self._place_of_pair[pair] for pair in pairs]
            self._of_batch[index] = self._take(index, rows, n)
        return self._of_batch[index]

    def _take(self, index: int, rows: Sequence[int], n: int) -> _Chosen | None:
        """What one behaviour takes of rows: of sequences, or of pairs where it compares."""
        places = torch.tensor(rows, dtype=torch.long)
        eligibility = self.plan.eligibility[index]
        queries = eligibility.queries[places, :n]
        if not queries.any():
            return None
        takes_part = queries.any(dim=-1)
        kept = queries[takes_part]
        return _Chosen(
            takes_part=takes_part,
            rows=self._row[index][places[takes_part]],
            eligible=kept[:, None].to(torch.float32),
            weight=eligibility.weight(kept)[:, None],
            n_queries=int(queries.sum()),
        )

    def _keep_mask(self, index: int, layer: int, chosen: _Chosen, attended: Tensor) -> None:
        self._n_queries[index, self.place[layer]] += chosen.n_queries
        self._hold(index, layer, chosen, [attended[chosen.takes_part] * chosen.weight])

    def _keep_distribution(
        self, index: int, layer: int, chosen: _Chosen, terms: QueryTerms, pools_queries: bool
    ) -> None:
        numerator, denominator = (term[chosen.takes_part] * chosen.eligible for term in terms)
        self._n_queries[index, self.place[layer]] += (denominator > 0).sum(dim=(0, -1))
        if not pools_queries and self.plan.eligibility[index].weighting == "prompts":
            count = denominator.sum(dim=-1, keepdim=True).clamp_min(1)
            numerator, denominator = numerator / count, denominator / count
        self._hold(index, layer, chosen, [numerator, denominator])

    def _hold(self, index: int, layer: int, chosen: _Chosen, terms: Sequence[Tensor]) -> None:
        place = self.place[layer]
        # A mask gives no denominator: its queries' weights, the same in every head.
        for held, term in zip(self._sums[index], terms, strict=False):
            if self.plan.eligibility[index].by_sequence:
                held[chosen.rows, place] = term.sum(dim=-1)
            else:
                held[chosen.rows, place, :, : term.shape[-1]] = term

    def unit_sums(self, index: int) -> UnitSums:
        """What the units add to the figure of the behaviour with that place in the plan."""
        eligibility = self.plan.eligibility[index]
        takes_part = eligibility.queries.any(dim=-1)
        queries = eligibility.queries[takes_part]
        weight = eligibility.weight(queries)
        numerator, denominator = self._sums[index]
        behaviour = self.plan.behaviours[index]
        varies = isinstance(behaviour, DistributionBehaviour)
        compares = isinstance(behaviour, DistributionBehaviour) and behaviour.compares_sequences
        lengths = None
        if eligibility.by_sequence:
            denominator = denominator if varies else weight.sum(dim=-1)[:, None, None]
            if compares:
                numerator, denominator = (
                    self._of_each_text(sums, takes_part) for sums in (numerator, denominator)
                )
        else:
            by_query = "sequence layer head query -> sequence query layer head"
            lengths = tuple(queries.sum(dim=-1).tolist())
            numerator = rearrange(numerator, by_query)[queries]
            denominator = (
                rearrange(denominator, by_query)[queries]
                if varies
                else weight[queries][:, None, None]
            )
        return UnitSums(
            numerator=numerator,
            denominator=denominator,
            null=eligibility.null,
            lengths=lengths,
            units_to_term=2 if compares and eligibility.by_sequence else 1,
            n_queries=self._n_queries[index],
        )

    def _of_each_text(
        self, of_pairs: Float[Tensor, "pair layer head"], takes_part: Bool[Tensor, " pair"]
    ) -> Float[Tensor, "text layer head"]:
        """The sums of the pairs that each text is in; of texts in none, 0."""
        pairs = torch.tensor(self.plan.compared)[takes_part]
        texts, place = pairs.unique(return_inverse=True)
        sums = of_pairs.new_zeros(len(texts), *of_pairs.shape[1:])
        for side in place.T:
            sums.index_add_(0, side, of_pairs)
        return sums
