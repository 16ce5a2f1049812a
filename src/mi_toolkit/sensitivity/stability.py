"""`ranking_stability`: would other texts, or another metric, have named the same weights?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mi_toolkit.errors import WeightError
from mi_toolkit.heads.provenance import provenance_of
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.prompts.evaluation import loss_batch
from mi_toolkit.prompts.tokens import Prompt, TokenBatch, from_sequences
from mi_toolkit.provenance import Provenance
from mi_toolkit.sensitivity.controls import Triple
from mi_toolkit.sensitivity.ranking import jaccard, rank_biased_overlap, spearman
from mi_toolkit.sensitivity.score import score_weights
from mi_toolkit.sensitivity.weight_scores import WeightScores

if TYPE_CHECKING:
    from pandas import DataFrame

SAMPLED = 200_000
"""Weights that the correlation of full scores is taken over; all of them in smaller models."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How alike rankings are, over pairs of them."""

    over: str
    """`data`: one metric, resampled texts; `metric`: two metrics, all texts."""

    metrics: tuple[str, str]
    """The metrics compared: one and the same for `data`."""

    k: int
    """How many of the top are compared."""

    n_pairs: int
    """Pairs of rankings: 1 for `metric`."""

    jaccard: tuple[float, float, float]
    """Shared weights over all weights of two tops, 0 to 1: mean, lowest and highest pair."""

    rank_biased_overlap: tuple[float, float, float]
    """The same with the first places counting most: mean, lowest and highest."""

    spearman: tuple[float, float, float]
    """Rank correlation of the scores of all weights (a sample of large models): the same three."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RankingStability:
    """How much a ranking depends on the texts and on the metric."""

    agreements: tuple[Agreement, ...]
    """Over data first, then over metrics."""

    provenance: Provenance
    """Model, texts and versions."""

    def to_pandas(self) -> DataFrame:
        """One row per comparison: means over pairs, and the ends of their range."""
        from mi_toolkit.tables import frame

        rows = [
            {
                "over": each.over,
                "metric": each.metrics[0],
                "other": each.metrics[1],
                "k": each.k,
                "n_pairs": each.n_pairs,
                **{
                    f"{name}{end}": getattr(each, name)[index]
                    for name in ("jaccard", "rank_biased_overlap", "spearman")
                    for index, end in enumerate(("", "_low", "_high"))
                },
            }
            for each in self.agreements
        ]
        return frame({name: [row[name] for row in rows] for name in rows[0]})


@dataclass(frozen=True, kw_only=True, eq=False)
class _Summary:
    """What is kept of one scoring: the top, and the scores of a fixed sample."""

    top: list[Triple]
    sample: Tensor


def ranking_stability(
    model: HookedModel,
    texts: Prompt | TokenBatch | None = None,
    *,
    metrics: Sequence[str] = ("grad_x_weight",),
    k: Sequence[int] = (100,),
    seeds: Sequence[int] = (0, 1, 2, 3),
    parameters: str | Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    components: str | Sequence[str] | None = None,
    batch_size: int = 8,
    max_length: int | None = None,
    eval_limit: int | None = None,
) -> RankingStability:
    """Score on resampled texts, and by several metrics, and compare the rankings in pairs.

    Each seed draws as many texts as there are, with replacement: nothing else differs between two
    runs of one metric. Every scoring costs as much as `score_weights`; of each only the top and a
    sample of scores is kept.

    Args:
        model: any hooked model.
        texts: as in `score_weights`.
        metrics: the scorers; each is resampled, and all are compared on the whole texts.
        k: how many of the top to compare.
        seeds: one resampled set of texts each; two or more, or none to leave the data out.
        parameters: as in `score_weights`.
        layers: as in `score_weights`.
        components: as in `score_weights`.
        batch_size: as in `score_weights`.
        max_length: as in `score_weights`.
        eval_limit: as in `score_weights`.

    Raises:
        UnknownNameError: no such metric, parameter, layer or component.
        WeightError: nothing to compare: fewer than two seeds and fewer than two metrics.
    """
    if len(seeds) < 2 and len(metrics) < 2:
        raise WeightError("Stability compares rankings: give two or more seeds, or two metrics.")
    batch = loss_batch(model, texts, max_length=max_length, limit=eval_limit)

    def summary(metric: str, of: TokenBatch) -> _Summary:
        scores = score_weights(
            model,
            of,
            metric,
            parameters=parameters,
            layers=layers,
            components=components,
            batch_size=batch_size,
        )
        return _Summary(top=scores.ranking(max(k)).keys(), sample=_sample(scores))

    agreements = []
    if len(seeds) > 1:
        for metric in metrics:
            resampled = [summary(metric, _resampled(batch, seed)) for seed in seeds]
            pairs = list(combinations(resampled, 2))
            agreements += [
                _agreement("data", (metric, metric), pairs, count) for count in sorted(k)
            ]
    if len(metrics) > 1:
        whole = {metric: summary(metric, batch) for metric in metrics}
        for first, second in combinations(metrics, 2):
            pair = [(whole[first], whole[second])]
            agreements += [
                _agreement("metric", (first, second), pair, count) for count in sorted(k)
            ]
    return RankingStability(
        agreements=tuple(agreements),
        provenance=provenance_of(model, {"scoring": batch}, seed=seeds[0] if seeds else 0),
    )


def _resampled(batch: TokenBatch, seed: int) -> TokenBatch:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(batch), (len(batch),), generator=generator).tolist()
    return from_sequences([batch.sequence(index).tolist() for index in drawn], batch.bos_id)


def _sample(scores: WeightScores) -> Tensor:
    """The same weights of every scoring: evenly spaced in each matrix."""
    step = max(1, scores.size // SAMPLED)
    return torch.cat([score.flatten()[::step].clone() for score in scores.scores.values()])


def _agreement(
    over: str, metrics: tuple[str, str], pairs: Sequence[tuple[_Summary, _Summary]], k: int
) -> Agreement:
    tops = [(a.top[:k], b.top[:k]) for a, b in pairs]
    return Agreement(
        over=over,
        metrics=metrics,
        k=k,
        n_pairs=len(pairs),
        jaccard=_range([jaccard(a, b) for a, b in tops]),
        rank_biased_overlap=_range([rank_biased_overlap(a, b) for a, b in tops]),
        spearman=_range([spearman(a.sample, b.sample) for a, b in pairs]),
    )


def _range(values: Sequence[float]) -> tuple[float, float, float]:
    return sum(values) / len(values), min(values), max(values)
