"""Copying: what a head that matches a prefix does to the logit of the token it finds there.

An induction head looks at what followed an earlier copy of the present token. Whether it then
raises that token's logit (copies it) or lowers it (suppresses it) the pattern does not tell; the
head's direct effect on the logit does.

1. For each query with target keys `M(q)`, as `induction` defines them, keep the head's output `z`.
2. Its effect there is that of `z W_O` on the logit of `t[k]`, mean over `k` in `M(q)`, in standard
   deviations over the vocabulary (see `direct_effect`).
3. Average within a sequence, then over sequences; the interval is a bootstrap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_toolkit.heads.direct_effect import (
    EffectiveUnembedding,
    direct_effect,
    effective_unembedding,
    output_weights,
)
from mi_toolkit.heads.intervals import MIN_QUERIES, MIN_SEQUENCES, block_length, interval
from mi_toolkit.hooked_model import HookedModel

KEPT_BYTES = 64 * 2**20
"""Head outputs that are kept before they are made into effects.

Most prompts need less, and the unembedding's covariance, which costs as much as a short forward
pass, is then only computed where some head matches a prefix."""

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
        windows: Mapping[int, int | None],
        queries: Mapping[int | None, Sequence[CopyQueries]],
    ) -> None:
        """Expect the layers of `windows`, and for each window the queries of each sequence."""
        self.model, self.windows, self._queries = model, windows, queries
        self._kept: dict[tuple[int, int], Tensor] = {}
        self._effects: dict[tuple[int, int], Tensor] = {}
        self._bytes = 0
        self._taking_part = {
            window: sum(len(each.positions) > 0 for each in own) for window, own in queries.items()
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
        if self._bytes > KEPT_BYTES:
            self.reduce()

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What was added so far, by name."""
        named = {f"kept.{layer}.{sequence}": z for (layer, sequence), z in self._kept.items()}
        return named | {
            f"effect.{layer}.{sequence}": effect
            for (layer, sequence), effect in self._effects.items()
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` once were."""
        held = {"kept": self._kept, "effect": self._effects}
        for name, tensor in tensors.items():
            kind, layer, sequence = name.split(".")
            held[kind][int(layer), int(sequence)] = tensor
        self._bytes = sum(z.nbytes for z in self._kept.values())

    def reduce(self) -> None:
        """Make the outputs kept so far into effects, and let them go."""
        unembedding = self._unembedding
        weights: dict[int, Tensor] = {}
        directions: dict[tuple[int | None, int], Tensor] = {}
        for (layer, sequence), z in self._kept.items():
            window = self.windows[layer]
            if layer not in weights:
                weights = {layer: output_weights(self.model, layer)}
            if (window, sequence) not in directions:
                queries = self._queries[window][sequence]
                directions[window, sequence] = queries.directions(unembedding)
            effect = direct_effect(
                z.to(unembedding.covariance.device),
                weights[layer],
                directions[window, sequence],
                unembedding.covariance,
            ).cpu()
            if self._taking_part[window] >= MIN_SEQUENCES:
                effect = effect.mean(dim=0, keepdim=True)  # all that its interval asks for
            self._effects[layer, sequence] = effect
        self._kept.clear()
        self._bytes = 0

    @cached_property
    def _unembedding(self) -> EffectiveUnembedding:
        return effective_unembedding(self.model)

    def figures(
        self, *, seed: int, heads: Bool[Tensor, "layer head"] | None = None
    ) -> CopyingFigures:
        """Means and intervals of what was added, of the given heads or of all.

        Where no head is asked about, and little was added, nothing is computed.
        """
        shape = (int(self.model.cfg.n_layers), int(self.model.cfg.n_heads))
        asked = torch.ones(shape, dtype=torch.bool) if heads is None else heads
        effect, low, high = torch.full((3, *shape), torch.nan)
        if not asked.any():
            return CopyingFigures(
                effect=effect, ci_low=low, ci_high=high, n_queries=0, n_sequences=0
            )
        self.reduce()
        n_queries = n_sequences = 0
        for window, queries in self._queries.items():
            layers = [layer for layer, own in self.windows.items() if own == window]
            taking_part = [i for i, each in enumerate(queries) if len(each.positions)]
            if not taking_part:
                continue
            units = [
                torch.stack([self._effects[layer, sequence] for layer in layers], dim=1)
                for sequence in taking_part
            ]
            n_queries = max(n_queries, sum(len(queries[i].positions) for i in taking_part))
            n_sequences = max(n_sequences, len(units))
            effect[layers] = torch.stack([unit.mean(dim=0) for unit in units]).mean(dim=0)
            low[layers], high[layers] = _interval(units, seed)
        for figure in (effect, low, high):
            figure[~asked] = torch.nan
        return CopyingFigures(
            effect=effect, ci_low=low, ci_high=high, n_queries=n_queries, n_sequences=n_sequences
        )


def _interval(
    effects: Sequence[Float[Tensor, "_ layer head"]], seed: int
) -> tuple[Float[Tensor, "layer head"], Float[Tensor, "layer head"]]:
    """Over sequences, or over blocks of pooled queries where there are few sequences."""
    if len(effects) >= MIN_SEQUENCES:
        values, block = torch.stack([each.mean(dim=0) for each in effects]), 1
        weight = torch.ones(len(values))
    else:
        values = torch.cat(list(effects))
        block = block_length(len(values))
        weight = torch.cat([torch.full((len(each),), 1 / len(each)) for each in effects])
    n_layers, n_heads = values.shape[1:]
    if len(values) < MIN_QUERIES:
        low = torch.full((n_layers, n_heads), torch.nan)
        return low, low
    weight = weight[:, None].expand(-1, n_layers * n_heads)
    ends = interval(values.flatten(start_dim=1) * weight, weight, None, block=block, seed=seed)
    low, high = (end.view(n_layers, n_heads) for end in ends)
    return low, high
