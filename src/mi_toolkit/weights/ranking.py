"""Exact ranking of scores by matrix, and how alike two rankings are. Pure: it sees no model.

1. Of every line of a matrix, as it lies in memory, the highest score is found: one fast reading.
2. A threshold is raised matrix by matrix, from the lines that beat it so far.
3. All weights at or above the last threshold are collected, ties at the threshold included, and
   put in order: by score, then by parameter, row and column.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.core.errors import WeightError

MOST_TIES = 100_000
"""Weights beyond k that ties may add to a ranking."""

KEPT_ENOUGH = 0.5
"""The part of its scores that a ranking by one half of the draws has to keep by the other."""

Vector = Float[Tensor, " weight"]


@dataclass(frozen=True, kw_only=True)
class RankingNoise:
    """How much of a ranking is noise, where the scores are estimates from random draws.

    The standard errors alone do not say it: of many noisy scores, those are highest whose noise is.
    So each half of the draws ranks by itself, and the other half, which had no part in the choice,
    says what the chosen weights score.
    """

    n: int
    """Weights in the ranking."""

    n_within: int
    """Of them, those whose standard error exceeds their score."""

    n_probes: int | None
    """Random draws to each score; None where that was not kept."""

    kept: float
    """Of the scores that one half of the draws ranks highest, the part that the other half gives
    the same weights, over both halves: 1 without noise, 0 where nothing but noise was ranked. A
    half has twice the variance of the whole, so the ranking by all draws is somewhat better. NaN
    where the halves were not kept."""

    shared: float
    """Share of one half's ranking that is in the other's; NaN where they were not kept."""

    @property
    def warning(self) -> str | None:
        """What to know before the ranking is used; None where it stands."""
        if not self.n_within and not self.kept < KEPT_ENOUGH:
            return None
        said = []
        if self.n_within:
            said.append(
                f"{self.n_within:,} of the {self.n:,} highest are within their own standard error"
            )
        if not math.isnan(self.kept):
            said.append(
                f"the {self.n:,} that one half of the probes ranks highest have {self.kept:.0%} of "
                f"that score by the other half, and {self.shared:.0%} of them are among its highest"
            )
        here = "" if self.n_probes is None else f", here {self.n_probes}"
        return f"{'; '.join(said)}: use more probes (n_probes{here}) or another score."


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranking:
    """Weights in order, best first."""

    names: tuple[str, ...]
    """The parameters that `matrix` counts."""

    matrix: Int[Tensor, " weight"]
    """Which parameter each weight is in."""

    rows: Int[Tensor, " weight"]
    """Row of each weight in its parameter."""

    columns: Int[Tensor, " weight"]
    """Column of each weight in its parameter."""

    scores: Float[Tensor, " weight"]
    """Score of each weight."""

    ranks: Int[Tensor, " weight"]
    """Rank of each weight, from 1; equal scores share the best rank."""

    standard_errors: Float[Tensor, " weight"] | None = None
    """Standard error of each score; None where scores are exact."""

    noise: RankingNoise | None = None
    """How much of the ranking is noise, as it was before any of it was cut; None where scores are
    exact."""

    def __len__(self) -> int:
        return len(self.scores)

    def keys(self) -> list[tuple[str, int, int]]:
        """Parameter, row and column of each weight, in order."""
        columns = (self.matrix.tolist(), self.rows.tolist(), self.columns.tolist())
        return [(self.names[m], row, column) for m, row, column in zip(*columns, strict=True)]

    def first(self, n: int) -> Ranking:
        """The first `n`, ties at the end cut."""
        errors = self.standard_errors
        return replace(
            self,
            matrix=self.matrix[:n],
            rows=self.rows[:n],
            columns=self.columns[:n],
            scores=self.scores[:n],
            ranks=self.ranks[:n],
            standard_errors=None if errors is None else errors[:n],
        )


def ranked(scores: Mapping[str, Float[Tensor, "_ _"]], k: int) -> Ranking:
    """The `k` highest scores of all matrices, and all that tie with the k-th.

    Raises:
        WeightError: k is not between 1 and the number of scores, a score is NaN, or ties are too
            many to list.
    """
    total = sum(matrix.numel() for matrix in scores.values())
    if not 1 <= k <= total:
        raise WeightError(f"k must be between 1 and the number of weights, {total:,}; it is {k}.")
    highest = {name: _line_maxima(name, matrix) for name, matrix in scores.items()}
    threshold = kth_highest(scores, k, highest)
    found, reached = [], 0
    for name, matrix in scores.items():
        rows, columns = _at_least(matrix, threshold, highest[name])
        found.append((rows, columns, matrix[rows, columns].float()))
        reached += len(rows)
        if reached > k + MOST_TIES:
            raise WeightError(
                f"The score at rank {k:,} is {threshold:g}, which more than {reached:,} weights "
                "reach: too many equal ones to list. Ask for fewer."
            )
    lengths = torch.tensor([len(rows) for rows, *_ in found])
    rows, columns, values = (torch.cat(parts) for parts in zip(*found, strict=True))
    best, order = values.sort(descending=True, stable=True)
    return Ranking(
        names=tuple(scores),
        matrix=torch.arange(len(found)).repeat_interleave(lengths)[order],
        rows=rows[order],
        columns=columns[order],
        scores=best,
        ranks=_ranks(best),
    )


def kth_highest(
    scores: Mapping[str, Float[Tensor, "_ _"]], k: int, highest: Mapping[str, Tensor]
) -> float:
    """The k-th highest of all scores, given the highest of each line of each matrix."""
    best = torch.empty(0)
    for name, matrix in scores.items():
        # Once there are k, equals of the last cannot raise the threshold.
        lines = _lines(matrix)
        if len(best) == k:
            lines = lines[highest[name] > best[-1]]
            lines = lines[lines > best[-1]]
        best = torch.cat([best, lines.flatten().float()])
        best = best.topk(min(k, len(best))).values
    return float(best[-1])


def _lines(matrix: Tensor) -> Tensor:
    """The matrix with its lines as they lie in memory, so that reading one is reading ahead."""
    return matrix.mT if _is_turned(matrix) else matrix


def _is_turned(matrix: Tensor) -> bool:
    return matrix.stride(0) < matrix.stride(1)


def _line_maxima(name: str, matrix: Tensor) -> Tensor:
    """The highest score of each line: most lines need never be looked at again."""
    highest = _lines(matrix).amax(dim=1)
    if highest.isnan().any():
        raise WeightError(
            f"Scores of {name} are NaN, so nothing can be ranked: the gradients overflowed, or the "
            "model gives NaN on these texts. Load it in float32."
        )
    return highest


def _at_least(matrix: Tensor, threshold: float, highest: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of the scores from a threshold on, in the order of the matrix."""
    lines = (highest >= threshold).nonzero().flatten()
    line, place = (_lines(matrix)[lines] >= threshold).nonzero(as_tuple=True)
    if not _is_turned(matrix):
        return lines[line], place
    order = (place * matrix.shape[1] + lines[line]).argsort()
    return place[order], lines[line][order]


def _ranks(ordered: Tensor) -> Tensor:
    places = torch.arange(1, len(ordered) + 1)
    is_new = torch.ones(len(ordered), dtype=torch.bool)
    is_new[1:] = ordered[1:] != ordered[:-1]
    return torch.where(is_new, places, 0).cummax(dim=0).values


def scores_at(scores: Mapping[str, Float[Tensor, "_ _"]], ranking: Ranking) -> Vector:
    """What other figures of the same matrices are at the weights of a ranking, in its order."""
    found = torch.empty(len(ranking))
    for index, name in enumerate(ranking.names):
        at = (ranking.matrix == index).nonzero().flatten()
        if len(at):
            found[at] = scores[name][ranking.rows[at], ranking.columns[at]].float()
    return found


def kept_by_the_other(
    halves: Sequence[Mapping[str, Float[Tensor, "_ _"]]], rankings: Sequence[Ranking]
) -> tuple[float, float]:
    """`kept` and `shared` of `RankingNoise`, from both halves' scores and rankings."""
    claimed = sum(float(ranking.scores.sum(dtype=torch.float64)) for ranking in rankings)
    held = sum(
        float(scores_at(other, ranking).sum(dtype=torch.float64))
        for other, ranking in zip(reversed(halves), rankings, strict=True)
    )
    first, second = (set(ranking.keys()) for ranking in rankings)
    kept = held / claimed if claimed > 0 else math.nan
    return kept, len(first & second) / min(len(first), len(second))


def concatenated(rankings: Sequence[Ranking]) -> Ranking:
    """Rankings one after the other, each with its own ranks, without their errors and noise."""
    names = tuple(dict.fromkeys(name for ranking in rankings for name in ranking.names))
    renumbered = [
        torch.tensor([names.index(name) for name in ranking.names])[ranking.matrix]
        for ranking in rankings
    ]
    return Ranking(
        names=names,
        matrix=torch.cat(renumbered),
        rows=torch.cat([ranking.rows for ranking in rankings]),
        columns=torch.cat([ranking.columns for ranking in rankings]),
        scores=torch.cat([ranking.scores for ranking in rankings]),
        ranks=torch.cat([ranking.ranks for ranking in rankings]),
    )


def jaccard(a: Sequence[object], b: Sequence[object]) -> float:
    """Shared members over all members, 0 to 1.

    >>> jaccard("abc", "bcd")
    0.5
    """
    return len(set(a) & set(b)) / len(set(a) | set(b))


def rank_biased_overlap(a: Sequence[object], b: Sequence[object], *, p: float = 0.98) -> float:
    """How alike two rankings are, the first places counting most, 0 to 1.

    The mean overlap of the first d of each, over depths d weighted by p^(d-1), over the depths that
    both have (Webber et al. 2010, truncated and renormalised: equal rankings score 1).

    >>> rank_biased_overlap("abc", "abc"), rank_biased_overlap("abc", "def")
    (1.0, 0.0)
    """
    depth = min(len(a), len(b))
    seen_a: set[object] = set()
    seen_b: set[object] = set()
    shared, total, weight, weights = 0, 0.0, 1.0, 0.0
    for d in range(depth):
        seen_a.add(a[d])
        seen_b.add(b[d])
        shared += int(a[d] in seen_b) + int(b[d] in seen_a and b[d] != a[d])
        total += weight * shared / (d + 1)
        weights += weight
        weight *= p
    return total / weights


def spearman(a: Vector, b: Vector) -> float:
    """Rank correlation, ties at their mean rank; NaN where either side is constant.

    >>> spearman(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0, 8.0]))
    1.0
    """
    first, second = (_mean_ranks(values) for values in (a, b))
    first, second = first - first.mean(), second - second.mean()
    size = (first.square().sum() * second.square().sum()).sqrt()
    return float((first * second).sum() / size) if size > 0 else float("nan")


def _mean_ranks(values: Tensor) -> Tensor:
    _, group, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    mean: Tensor = (last - (counts.double() - 1) / 2)[group]
    return mean
