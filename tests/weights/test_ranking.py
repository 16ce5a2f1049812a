"""Rankings of small matrices whose order is known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mi_toolkit.core.errors import WeightError
from mi_toolkit.weights import ranking
from mi_toolkit.weights.ranking import (
    RankingNoise,
    concatenated,
    jaccard,
    kept_by_the_other,
    rank_biased_overlap,
    ranked,
    scores_at,
    spearman,
)

whole_numbers = st.lists(st.integers(0, 6), min_size=1, max_size=24)


@given(numbers=st.lists(whole_numbers, min_size=1, max_size=4), k=st.integers(1, 30))
def test_a_ranking_is_the_sorted_scores_with_all_that_tie_with_the_last(numbers, k) -> None:
    scores = {f"m{i}": torch.tensor([column]).float().T for i, column in enumerate(numbers)}
    everything = sorted(
        (-value, i, row) for i, column in enumerate(numbers) for row, value in enumerate(column)
    )
    k = min(k, len(everything))
    least = everything[k - 1][0]
    expected = [(f"m{i}", row, 0) for value, i, row in everything if value <= least]
    found = ranked(scores, k)
    assert found.keys() == expected
    values = [-value for value, _, _ in everything][: len(expected)]
    assert found.scores.tolist() == values
    assert found.ranks.tolist() == [values.index(value) + 1 for value in values]


def test_a_ranking_reads_matrices_in_any_memory_layout() -> None:
    matrix = torch.arange(12.0).view(3, 4)
    straight, turned = ranked({"a": matrix}, 5), ranked({"a": matrix.T.contiguous().T}, 5)
    assert straight.keys() == turned.keys() == [("a", 2, c) for c in (3, 2, 1, 0)] + [("a", 1, 3)]
    ties = torch.tensor([[1.0, 2, 2, 1, 2], [2, 1, 1, 2, 2], [2, 2, 1, 1, 2]])
    straight, turned = ranked({"a": ties}, 9), ranked({"a": ties.T.contiguous().T}, 9)
    assert straight.keys() == turned.keys()
    assert straight.keys() == [("a", *place) for place in (ties == 2).nonzero().tolist()]


def test_too_many_ties_and_an_impossible_k_are_errors() -> None:
    flat = {"a": torch.zeros(400, 400)}
    too_many = r"rank 5 is 0, which more than 160,000 weights reach: too many equal ones to list\."
    with pytest.raises(WeightError, match=rf"{too_many} Ask for fewer\.$"):
        ranked(flat, 5)
    for k in (0, 160_001):
        with pytest.raises(WeightError, match=f"number of weights, 160,000; it is {k}"):
            ranked(flat, k)


@given(order=st.permutations(range(8)))
def test_rank_biased_overlap_equals_its_definition(order) -> None:
    first = list(range(8))
    weights = [0.9**d for d in range(8)]
    overlaps = [len(set(first[: d + 1]) & set(order[: d + 1])) / (d + 1) for d in range(8)]
    expected = sum(w * o for w, o in zip(weights, overlaps, strict=True)) / sum(weights)
    assert rank_biased_overlap(first, order, p=0.9) == pytest.approx(expected)
    assert jaccard(first, order) == 1


def test_spearman_is_the_correlation_of_mean_ranks() -> None:
    a, b = torch.tensor([1.0, 2.0, 2.0, 5.0, 0.0]), torch.tensor([3.0, 1.0, 4.0, 9.0, 0.0])
    ranks_a, ranks_b = [2, 3.5, 3.5, 5, 1], [3, 2, 4, 5, 1]
    expected = torch.corrcoef(torch.tensor([ranks_a, ranks_b]))[0, 1]
    assert spearman(a, b) == pytest.approx(float(expected))
    assert math.isnan(spearman(a, torch.ones(5)))


def test_what_the_other_half_keeps_is_1_without_noise_and_0_of_noise_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    true = {"a": torch.rand(200, 50, generator=generator)}
    noise = [{"a": torch.randn(200, 50, generator=generator)} for _ in range(2)]
    for halves, kept, shared in (([true, true], 1.0, 1.0), (noise, 0.0, 0.0)):
        rankings = [ranked(half, 100) for half in halves]
        found = kept_by_the_other(halves, rankings)
        assert found == pytest.approx((kept, shared), abs=0.08)


@pytest.mark.parametrize(
    ("n_within", "kept", "says"),
    [
        (0, 0.9, None),
        (3, 0.9, "3 of the 100 highest are within their own standard error; the 100 that one"),
        (0, 0.2, "the 100 that one half of the probes ranks highest have 20% of that score by the"),
        (2, math.nan, "2 of the 100 highest are within their own standard error: use more probes"),
        (0, math.nan, None),
    ],
)
def test_a_warning_says_what_is_wrong(n_within: int, kept: float, says: str | None) -> None:
    warning = RankingNoise(n=100, n_within=n_within, n_probes=8, kept=kept, shared=0.5).warning
    assert (warning is None) == (says is None)
    assert (warning or "").startswith(says or "")


def test_rankings_one_after_the_other_count_their_names_once() -> None:
    first = ranked({"a": torch.tensor([[3.0, 1.0]]), "b": torch.tensor([[2.0, 5.0]])}, 3)
    second = ranked({"c": torch.tensor([[9.0, 8.0]]), "b": torch.tensor([[7.0, 0.0]])}, 2)
    both = concatenated([first, second])
    assert both.names == ("a", "b", "c")
    assert both.keys() == [*first.keys(), *second.keys()]
    assert both.scores.tolist() == [5, 3, 2, 9, 8]
    assert both.ranks.tolist() == [1, 2, 3, 1, 2]
    assert (both.standard_errors, both.noise) == (None, None)


def test_the_first_of_a_ranking_keep_their_ranks_and_errors() -> None:
    whole = ranked({"a": torch.tensor([[3.0, 1.0, 3.0, 2.0]])}, 4)
    assert whole.first(1).standard_errors is None
    noise = RankingNoise(n=4, n_within=0, n_probes=8, kept=0.9, shared=0.5)
    whole = replace(whole, standard_errors=torch.tensor([0.1, 0.2, 0.3, 0.4]), noise=noise)
    cut = whole.first(3)
    assert cut.keys() == whole.keys()[:3] == [("a", 0, 0), ("a", 0, 2), ("a", 0, 3)]
    assert cut.scores.tolist() == [3, 3, 2]
    assert cut.ranks.tolist() == [1, 1, 3]
    assert cut.standard_errors is not None
    assert cut.standard_errors.tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert cut.noise is noise
    assert len(whole.first(9)) == 4
    other = {"a": torch.tensor([[10.0, 20.0, 30.0, 40.0]]), "b": torch.zeros(1, 1)}
    assert scores_at(other, whole).tolist() == [10, 30, 40, 20]
    assert scores_at(other, replace(whole, names=("a", "b"))).tolist() == [10, 30, 40, 20]


def test_scores_that_are_no_numbers_cannot_be_ranked() -> None:
    said = (
        r"^Scores of b are NaN, so nothing can be ranked: the gradients overflowed, or the model "
        r"gives NaN on these texts\. Load it in float32\.$"
    )
    with pytest.raises(WeightError, match=said):
        ranked({"a": torch.ones(2, 2), "b": torch.tensor([[1.0, math.nan]])}, 1)


def test_ties_are_listed_up_to_the_most_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "MOST_TIES", 5)
    flat = {"a": torch.zeros(2, 4)}
    assert len(ranked(flat, 3)) == 8
    with pytest.raises(WeightError, match="The score at rank 2 is 0, which more than 8 weights"):
        ranked(flat, 2)
    with pytest.raises(WeightError, match="more than 8 weights"):  # of both matrices together
        ranked({"a": torch.zeros(2, 2), "b": torch.zeros(2, 2)}, 2)


def test_overlap_counts_places_of_both_and_alike_orders_are_one() -> None:
    assert jaccard("aab", "bc") == pytest.approx(1 / 3)
    assert rank_biased_overlap("ab", "ba", p=0.5) == pytest.approx((0 + 0.5 * 1) / 1.5)
    assert rank_biased_overlap("abc", "abd", p=0.9) == pytest.approx(
        (1 + 0.9 + 0.81 * 2 / 3) / (1 + 0.9 + 0.81)
    )
    # The depth is that of the shorter one; 0.98 weighs the first hundred or so.
    assert rank_biased_overlap("abcd", "ab") == 1
    assert rank_biased_overlap("abc", "xbc") == pytest.approx(
        (0 + 0.98 / 2 + 0.98**2 * 2 / 3) / (1 + 0.98 + 0.98**2)
    )


def test_a_warning_says_how_many_probes_there_were_and_what_the_halves_share() -> None:
    noise = RankingNoise(n=1000, n_within=1200, n_probes=8, kept=0.2, shared=0.25)
    assert noise.warning == (
        "1,200 of the 1,000 highest are within their own standard error; the 1,000 that one half "
        "of the probes ranks highest have 20% of that score by the other half, and 25% of them are "
        "among its highest: use more probes (n_probes, here 8) or another score."
    )
    unknown = RankingNoise(n=10, n_within=1, n_probes=None, kept=math.nan, shared=math.nan).warning
    assert unknown == (
        "1 of the 10 highest are within their own standard error: use more probes (n_probes) or "
        "another score."
    )
    assert RankingNoise(n=10, n_within=0, n_probes=8, kept=0.5, shared=0.5).warning is None


def test_halves_that_claim_nothing_keep_nothing_that_could_be_told() -> None:
    zeros = {"a": torch.zeros(1, 2)}
    kept, shared = kept_by_the_other([zeros, zeros], [ranked(zeros, 1)] * 2)
    assert math.isnan(kept)
    assert shared == 1


def test_small_scores_and_two_weights_are_enough() -> None:
    little = {"a": torch.tensor([[0.25, 0.5]])}
    kept, _ = kept_by_the_other([little, little], [ranked(little, 1)] * 2)
    assert kept == 1
    assert spearman(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])) == pytest.approx(1)
