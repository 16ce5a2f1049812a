"""Copying: what a head that matches a prefix does to the logit of the token it finds there.

An induction head looks at what followed an earlier copy of the present token. Whether it then
raises that token's logit (copies it) or lowers it (suppresses it) the pattern does not show; the
head's direct effect on the logit does.

1. For each query with target keys `M(q)`, as `induction` defines them, keep the head's output `z`.
2. Its effect there is that of `z W_O` on the logit of `t[k]`, mean over `k` in `M(q)`, in standard
   deviations over the vocabulary (see `direct_effect`).
3. Average within a sequence, then over sequences, or over all queries (the report's weighting);
   the interval is a jackknife.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.passes import check_finite_figures
from mi_toolkit.core.sight import Sight
from mi_toolkit.core.stats import MIN_TEXTS, over_queries, over_texts
from mi_toolkit.heads.direct_effect import (
    EffectiveUnembedding,
    direct_effect,
    effective_unembedding,
    output_weights,
    vocabulary_spread,
)
from mi_toolkit.heads.kinds import Weighting
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

    @property
    def weighting(self) -> Weighting:
        """What counts alike in the mean effect."""
        return self.plan.eligibility[self.behaviour].weighting

    def __getitem__(self, index: int) -> CopyQueries:
        if index not in self._held:
            if sum(len(each.ids) for each in self._held.values()) >= HELD_TARGETS:
                self._held.clear()
            ids = self.plan.batch.sequence(index)
            self._held[index] = copy_queries(ids, *self.plan.pairs(self.behaviour, index))
        return self._held[index]


KEPT_BYTES = 32 * 2**20
"""Head outputs that are kept before they are made into effects.

Most prompts need less, and then only the heads that match a prefix are looked at: all heads would
cost a tenth of the forward pass."""

KEPT_SEQUENCES = 64
"""Sequences whose outputs are kept so."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CopyingFigures:
    """Copying of every head, in standard deviations over the vocabulary; NaN where unknown."""

    effect: Float[Tensor, "layer head"]
    ci_low: Float[Tensor, "layer head"]
    ci_high: Float[Tensor, "layer head"]

    n_queries: int
    """Eligible queries, in the layer with most."""

    n_sequences: int
    """Sequences that took part, in the layer with most."""


class CopyingMeasurement:
    """The head outputs of a pass at the queries that have something to copy, and their effects."""

    def __init__(
        self,
        model: HookedModel,
        windows: Mapping[int, Sight],
        queries: Mapping[Sight, CopyQueriesOfPlan],
    ) -> None:
        """Expect the layers of `windows`, and for each window the queries of each sequence."""
        self.model, self.windows, self._queries = model, windows, queries
        self._kept: dict[tuple[int, int], Tensor] = {}
        self._bytes = 0
        self._rows = {
            window: EffectRows.of(own.counts, own.weighting) for window, own in queries.items()
        }
        n_heads = int(model.cfg.n_heads)
        self._effects = {
            layer: torch.full((self._rows[window].total, n_heads), torch.nan)
            for layer, window in windows.items()
        }

    def add(
        self,
        layer: int,
        z: Float[Tensor, "sequence position head d_head"],
        sequences: Sequence[int],
    ) -> None:
        """Keep a layer's head outputs for sequences at these places in the stimulus."""
        for sequence, outputs in zip(sequences, z, strict=True):
            positions = self._queries[self.windows[layer]][sequence].positions
            if len(positions):
                kept = outputs[positions.to(outputs.device)].to("cpu", torch.float32)
                self._kept[layer, sequence] = kept
                self._bytes += kept.nbytes
        many = len(self._kept) >= KEPT_SEQUENCES * len(self.windows)
        if many or self._bytes > KEPT_BYTES:
            self.reduce()

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What was added so far, by name."""
        named = {f"kept.{layer}.{sequence}": z for (layer, sequence), z in self._kept.items()}
        return named | {f"effect.{layer}": effects for layer, effects in self._effects.items()}

    def blank(self, name: str) -> float | None:
        """What a tensor's rows hold before anything is added; None for outputs, kept as a whole."""
        return math.nan if name.startswith("effect.") else None

    def clear(self) -> None:
        """Forget what was added."""
        self._kept.clear()
        self._bytes = 0
        for effects in self._effects.values():
            effects.fill_(math.nan)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` once were."""
        self.clear()
        self.join(tensors)

    def join(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what another measurement found of other sequences of the stimulus."""
        for name, tensor in tensors.items():
            kind, *places = name.split(".")
            if kind == "kept":
                layer, sequence = map(int, places)
                self._kept[layer, sequence] = tensor
            else:
                own = self._effects[int(places[0])]
                own.copy_(torch.where(own.isnan(), tensor, own))
        self._bytes = sum(z.nbytes for z in self._kept.values())

    def reduce(self) -> None:
        """Make the outputs kept so far into effects, and let them go."""
        self._measure_kept(None)
        self._kept.clear()
        self._bytes = 0

    def _measure_kept(self, asked: Bool[Tensor, "layer head"] | None) -> None:
        """Write down the effects of the outputs kept so far, in layers of the given heads or all.

        All heads of a layer together, as a product of some of them differs by rounding: what was
        measured along the way, before anybody could ask, has the same bits as what is at the end.
        """
        unembedding = effective_unembedding(self.model)
        of_layer: dict[int, list[int]] = {}
        for layer, sequence in self._kept:
            of_layer.setdefault(layer, []).append(sequence)
        directions: dict[tuple[Sight, int], Tensor] = {}
        for layer, sequences in of_layer.items():
            if asked is not None and not asked[layer].any():
                continue
            window = self.windows[layer]
            weights = output_weights(self.model, layer)
            spread = vocabulary_spread(weights, unembedding.covariance)
            # No pass reads the unembedding here, so no pass can find it damaged.
            check_finite_figures(
                self.model, f"The unembedding, the norm before it or W_O of layer {layer}", spread
            )
            rows = self._rows[window]
            for sequence in sequences:
                if (window, sequence) not in directions:
                    queries = self._queries[window][sequence]
                    directions[window, sequence] = queries.directions(unembedding)
                z = self._kept[layer, sequence].to(spread.device)
                effect = direct_effect(z, weights, directions[window, sequence], spread).cpu()
                if rows.by_sequence:
                    effect = effect.mean(dim=0, keepdim=True)  # all that its interval asks for
                start = rows.first[sequence]
                self._effects[layer][start : start + len(effect)] = effect

    def figures(self, *, heads: Bool[Tensor, "layer head"] | None = None) -> CopyingFigures:
        """Means and intervals of what was added, of the given heads or of all.

        Of what is kept, layers without such heads are not looked at; where no head is asked about,
        nothing is computed.
        """
        shape = (int(self.model.cfg.n_layers), int(self.model.cfg.n_heads))
        asked = torch.ones(shape, dtype=torch.bool) if heads is None else heads
        effect, low, high = torch.full((3, *shape), torch.nan)
        if not asked.any():
            return CopyingFigures(
                effect=effect, ci_low=low, ci_high=high, n_queries=0, n_sequences=0
            )
        self._measure_kept(heads)
        taking_part = [rows for rows in self._rows.values() if rows.total]
        for window, rows in self._rows.items():
            layers = [layer for layer, own in self.windows.items() if own == window]
            if not rows.total:
                continue
            units = torch.stack([self._effects[layer] for layer in layers], dim=1)
            weighted = rows.weight[:, None, None] * units
            effect[layers] = weighted.sum(dim=0) / rows.weight.sum()
            low[layers], high[layers] = _interval(weighted, rows)
        for figure in (effect, low, high):
            figure[~asked] = torch.nan
        return CopyingFigures(
            effect=effect,
            ci_low=low,
            ci_high=high,
            n_queries=max((rows.n_queries for rows in taking_part), default=0),
            n_sequences=max((rows.n_sequences for rows in taking_part), default=0),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class EffectRows:
    """Where the effects of each sequence lie in a layer's table: the units of the interval."""

    by_sequence: bool
    """Whether a sequence that takes part has one row, the mean of its queries; else one each."""

    first: Sequence[int]
    """Per sequence: its first row."""

    weight: Float[Tensor, " row"]
    """How much each row counts: 1 in all for a sequence where prompts weigh alike, else as much as
    it has queries, in equal parts on its rows."""

    lengths: tuple[int, ...]
    """Of each sequence: its rows."""

    n_queries: int
    n_sequences: int

    @classmethod
    def of(cls, count: Int[Tensor, " sequence"], weighting: Weighting) -> EffectRows:
        """The rows of sequences with so many queries."""
        n_sequences = int((count > 0).sum())
        by_sequence = n_sequences >= MIN_TEXTS
        rows = count.clamp_max(1) if by_sequence else count
        of_sequence = count if weighting == "queries" else torch.ones_like(count)
        return cls(
            by_sequence=by_sequence,
            first=(rows.cumsum(dim=0) - rows).tolist(),
            weight=(of_sequence / rows).repeat_interleave(rows),
            lengths=tuple(rows.tolist()),
            n_queries=int(count.sum()),
            n_sequences=n_sequences,
        )

    @property
    def total(self) -> int:
        """Rows of all sequences."""
        return len(self.weight)


def _interval(
    weighted: Float[Tensor, "row layer head"], rows: EffectRows
) -> tuple[Float[Tensor, "layer head"], Float[Tensor, "layer head"]]:
    """Over sequences, or over the queries of one or two; an effect has no range to be cut to."""
    above, below = weighted.flatten(start_dim=1), rows.weight[:, None]
    if rows.by_sequence:
        estimate = over_texts(above, below, bounds=None)
    else:
        estimate = over_queries(above, below, lengths=rows.lengths, bounds=None)
    low, high = (end.view(weighted.shape[1:]) for end in estimate.ends())
    return low, high
