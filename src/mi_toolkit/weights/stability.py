"""`ranking_stability`: would other texts, or another metric, have named the same weights?"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mi_toolkit.core.display import TextTable
from mi_toolkit.core.errors import WeightError
from mi_toolkit.core.head import HeadName
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.process_state import one_job
from mi_toolkit.core.progress import track
from mi_toolkit.core.provenance import Provenance
from mi_toolkit.core.random_sets import Triple
from mi_toolkit.core.result import Result
from mi_toolkit.core.stats import students_t
from mi_toolkit.core.stimuli import loss_batch
from mi_toolkit.core.tokens import Prompt, TokenBatch, from_sequences
from mi_toolkit.heads.classify import heads_named
from mi_toolkit.models.describe import provenance_of
from mi_toolkit.weights.ranking import jaccard, rank_biased_overlap, spearman
from mi_toolkit.weights.score import score_blockwise, score_weights
from mi_toolkit.weights.weight_scores import WeightScores

if TYPE_CHECKING:
    pass


Estimate = tuple[float, float, float]
"""A value and the ends of its 95% interval, NaN where there is none."""


def mean_over_pairs(table: Float[Tensor, "set set"]) -> Estimate:
    """The mean of a symmetric table off its diagonal, with a 95% interval over the sets.

    Pairs that share a set are not independent. The standard error is the larger of the jackknife's
    (sets are left out, one at a time) and of Hoeffding's bound, the pairs' standard deviation over
    the root of half the number of sets: with few sets the jackknife alone can be 0 by accident. So
    it is wide rather than narrow. Under three sets there is none; where all pairs are equal it has
    no width, which a few sets cannot vouch for.
    """
    n = len(table)
    rows, columns = torch.triu_indices(n, n, offset=1)
    pairs = table[rows, columns]
    mean = float(pairs.mean())
    if n < 3:
        return around(mean, float("nan"), 0)
    of_set = table.masked_fill(torch.eye(n, dtype=torch.bool), 0.0).sum(dim=1)
    without = (pairs.sum() - of_set) / ((n - 1) * (n - 2) / 2)
    jackknife = float(((n - 1) / n * (without - without.mean()).square().sum()).sqrt())
    bound = float(pairs.std()) / (n // 2) ** 0.5
    return around(mean, max(jackknife, bound), n - 1)


def around(value: float, standard_error: float, freedom: int) -> Estimate:
    """A value with its 95% interval by Student's t; none without degrees of freedom."""
    if freedom < 1:
        return value, float("nan"), float("nan")
    half = float(students_t(torch.tensor(float(freedom)))) * standard_error
    return value, value - half, value + half


def within(estimate: Estimate, low: float, high: float) -> Estimate:
    """The interval cut to what the value can be."""
    value, *ends = estimate
    first, last = (min(max(end, low), high) if end == end else end for end in ends)
    return value, first, last


def format_estimate(estimate: Estimate) -> str:
    """A value and its interval in words.

    >>> format_estimate((0.5, 0.4, 0.6))
    '0.50 [0.40, 0.60]'
    """
    value, low, high = estimate
    return f"{value:.2f} [{low:.2f}, {high:.2f}]" if low == low else f"{value:.2f}"


SAMPLED = 200_000
"""Weights that the correlation of full scores is taken over; all of them in smaller models."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How alike rankings are.

    Over `data` a value is the mean over all pairs of resampled sets of texts, and its interval says
    how far more resampled sets would move that mean, from three sets on. Over `metric` a value is
    that of all texts, and its interval says how far other texts would move it: the standard
    deviation over the resampled sets, each metric scored on the same one, from two sets on. Both
    with Student's t. Where nothing varied the interval has no width, for which so few sets are no
    proof.
    """

    over: str
    """`data`: one metric, resampled texts; `metric`: two metrics, all texts."""

    metrics: tuple[str, str]
    """The metrics compared: one and the same for `data`."""

    k: int
    """How many of the top are compared."""

    n_pairs: int
    """Pairs of rankings that the value is the mean of: 1 for `metric`."""

    jaccard: Estimate
    """Shared weights over all weights of two tops, 0 to 1, with its interval."""

    rank_biased_overlap: Estimate
    """Overlap of two rankings, 0 to 1, in which the first places count most."""

    spearman: Estimate
    """Rank correlation of the scores of all weights (a sample of large models)."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class RankingStability(Result):
    """How much a ranking depends on the texts and on the metric."""

    FORMAT: ClassVar[str] = "mi_toolkit ranking stability 1"

    agreements: tuple[Agreement, ...]
    """Over data first, then over metrics."""

    provenance: Provenance
    """Model, texts and versions."""

    def text_table(self) -> TextTable:
        """One row per comparison, with 95% intervals."""
        rows = [
            (
                each.over,
                " / ".join(dict.fromkeys(each.metrics)),
                f"{each.k:,}",
                *map(format_estimate, (each.jaccard, each.rank_biased_overlap, each.spearman)),
            )
            for each in self.agreements
        ]
        header = ("over", "metric", "top", "shared (Jaccard)", "rank-biased", "all (Spearman)")
        title = f"RankingStability of {self.provenance.model}"
        return TextTable(title=title, header=header, rows=rows)

    def rows(self) -> list[dict[str, Any]]:
        """One row per comparison: each value, and the ends of its 95% interval."""
        return [
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


@dataclass(frozen=True, kw_only=True, eq=False)
class _Summary:
    """What is kept of one scoring: the top, and the scores of a fixed sample."""

    top: list[Triple]
    sample: Tensor


@one_job
def ranking_stability(
    model: HookedModel,
    texts: Prompt | TokenBatch | None = None,
    *,
    metrics: str | Sequence[str] = ("grad_x_weight",),
    k: int | Sequence[int] = (100,),
    seeds: Sequence[int] = (0, 1, 2, 3),
    parameters: str | Sequence[str] | None = None,
    layers: int | Sequence[int] | None = None,
    components: str | Sequence[str] | None = None,
    heads: str | Sequence[HeadName] | None = None,
    batch_size: int = 8,
    max_length: int | None = None,
    eval_limit: int | None = None,
    attention_mask: Any = None,
    blocks_at_once: int | None = None,
    progress: bool | None = None,
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
        seeds: one resampled set of texts each; two or more, or none to leave the data out. Three
            are needed for an interval over data, and each more makes it narrower.
        parameters: as in `score_weights`.
        layers: as in `score_weights`.
        components: as in `score_weights`.
        heads: as in `score_weights`.
        batch_size: as in `score_weights`.
        max_length: as in `score_weights`.
        eval_limit: as in `score_weights`.
        attention_mask: of ids with padding: 1 where a token is real, in the shape of the ids.
        blocks_at_once: as in `score_blockwise`; None for all blocks in memory.
        progress: a progress bar; None: where somebody looks and it takes long.

    Raises:
        UnknownNameError: no such metric, parameter, layer or component.
        WeightError: nothing to compare: fewer than two seeds and fewer than two metrics.
    """
    metrics = [metrics] if isinstance(metrics, str) else metrics
    counts = sorted({k} if isinstance(k, int) else set(k))
    if len(seeds) < 2 and len(metrics) < 2:
        raise WeightError("Stability compares rankings: give two or more seeds, or two metrics.")
    batch = loss_batch(
        model, texts, max_length=max_length, limit=eval_limit, attention_mask=attention_mask
    )

    scope: dict[str, Any] = {"parameters": parameters, "layers": layers, "components": components}
    if heads is not None:
        scope["heads"] = heads_named(model, heads)

    def summary(metric: str, of: TokenBatch) -> _Summary:
        if blocks_at_once is None:
            return summarised(score_weights(model, of, metric, **scope, batch_size=batch_size))
        with TemporaryDirectory() as folder:
            scores = score_blockwise(
                model,
                of,
                metric,
                folder=folder,
                blocks_at_once=blocks_at_once,
                **scope,
                batch_size=batch_size,
            )
            return summarised(scores)

    def summarised(scores: WeightScores) -> _Summary:
        return _Summary(top=scores.ranking(counts[-1]).keys(), sample=_sample(scores))

    asked: list[tuple[str, int | None]]
    asked = [(metric, seed) for metric in metrics for seed in seeds if len(seeds) > 1]
    asked += [(metric, None) for metric in metrics if len(metrics) > 1]
    resampled: dict[str, list[_Summary]] = {}
    whole: dict[str, _Summary] = {}
    for metric, seed in track(
        asked, total=len(asked), label="Ranking weights", unit="scoring", show=progress
    ):
        if seed is None:
            whole[metric] = summary(metric, batch)
        else:
            resampled.setdefault(metric, []).append(summary(metric, _resampled(batch, seed)))
    agreements = [
        _over_data(metric, sets, count) for metric, sets in resampled.items() for count in counts
    ]
    if whole:
        agreements += [
            _over_metrics(pair, whole, resampled, count)
            for pair in combinations(metrics, 2)
            for count in counts
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
    return torch.cat([score[::step].clone() for score in scores.meant()])


_MEASURES: dict[str, tuple[Callable[[_Summary, _Summary, int], float], float, float]] = {
    "jaccard": (lambda a, b, k: jaccard(a.top[:k], b.top[:k]), 0.0, 1.0),
    "rank_biased_overlap": (lambda a, b, k: rank_biased_overlap(a.top[:k], b.top[:k]), 0.0, 1.0),
    "spearman": (lambda a, b, _: spearman(a.sample, b.sample), -1.0, 1.0),
}
"""How two scorings are compared, and between which ends."""


def _over_data(metric: str, sets: Sequence[_Summary], k: int) -> Agreement:
    found = {}
    for name, (measure, low, high) in _MEASURES.items():
        table = torch.full((len(sets), len(sets)), float("nan"), dtype=torch.float64)
        for i, j in combinations(range(len(sets)), 2):
            table[i, j] = table[j, i] = measure(sets[i], sets[j], k)
        found[name] = within(mean_over_pairs(table), low, high)
    n_pairs = len(sets) * (len(sets) - 1) // 2
    return Agreement(over="data", metrics=(metric, metric), k=k, n_pairs=n_pairs, **found)


def _over_metrics(
    pair: tuple[str, str],
    whole: Mapping[str, _Summary],
    resampled: Mapping[str, Sequence[_Summary]],
    k: int,
) -> Agreement:
    first, second = pair
    sets = list(zip(resampled.get(first, ()), resampled.get(second, ()), strict=True))
    found = {}
    for name, (measure, low, high) in _MEASURES.items():
        value = measure(whole[first], whole[second], k)
        spread = float("nan")
        if len(sets) > 1:
            spread = statistics.stdev(measure(a, b, k) for a, b in sets)
        found[name] = within(around(value, spread, len(sets) - 1), low, high)
    return Agreement(over="metric", metrics=pair, k=k, n_pairs=1, **found)
