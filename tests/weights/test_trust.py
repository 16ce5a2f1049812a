"""How far a ranking can be trusted: single ablations, resampled texts, other metrics."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from mi_toolkit.core.errors import UnknownNameError, WeightError
from mi_toolkit.core.stimuli import loss_batch
from mi_toolkit.weights.evaluation import qualities
from mi_toolkit.weights.fidelity import score_fidelity
from mi_toolkit.weights.perturb import perturbed
from mi_toolkit.weights.ranking import jaccard, rank_biased_overlap
from mi_toolkit.weights.score import score_weights
from mi_toolkit.weights.stability import mean_over_pairs, ranking_stability
from tests.models_here import loaded
from tests.weights.toy_text import TOY_TEXT


def test_fidelity_sets_scores_against_single_ablations() -> None:
    model = loaded("toy-gpt2")
    scores = score_weights(model, TOY_TEXT[:8], "signed_grad_x_weight")
    # On the texts of the scores a signed first-order score is right for small effects.
    settings: dict[str, Any] = {"eval_limit": None, "progress": False}
    fidelity = score_fidelity(model, scores, TOY_TEXT[:8], n=40, **settings)
    assert fidelity.spearman_signed > 0.7
    assert fidelity.spearman_interval[0] <= fidelity.spearman <= fidelity.spearman_interval[1]
    assert 0.5 < fidelity.sign_agreement <= 1
    counts = {name: fidelity.strata.count(name) for name in set(fidelity.strata)}
    expected = {"1-10": 8, "11-100": 8, "101-1000": 8, "1001-10000": 8, "any": 8}
    assert counts == expected
    batch = loss_batch(model, TOY_TEXT[:8])
    baseline, _ = qualities(model, batch, [], batch_size=8)
    for index in (0, 17, 39):
        name, row, column = fidelity.weights[index]
        assert float(fidelity.scores[index]) == float(scores.scores[name][row, column])
        with perturbed(model, [(name, row, column)]):
            without, _ = qualities(model, batch, [], batch_size=8)
        assert float(fidelity.loss_rise[index]) == pytest.approx(
            without.loss - baseline.loss, abs=1e-6
        )
    assert len(fidelity.to_pandas()) == 40
    unsigned = score_fidelity(
        model, score_weights(model, TOY_TEXT[:8]), TOY_TEXT[:2], n=10, **settings
    )
    assert math.isnan(unsigned.spearman_signed)
    random = score_weights(model, TOY_TEXT[:8], "random")
    chance = score_fidelity(model, random, TOY_TEXT[:8], n=40, **settings)
    assert chance.spearman < fidelity.spearman
    with pytest.raises(WeightError, match="A rank correlation of 5 weights says nothing"):
        score_fidelity(model, random, TOY_TEXT, n=5)


def test_stability_compares_rankings_over_resampled_texts_and_over_metrics() -> None:
    model = loaded("toy-gpt2")
    metrics = ["grad_x_weight", "magnitude"]
    settings: dict[str, Any] = {"layers": [1], "batch_size": 24}
    stability = ranking_stability(
        model, TOY_TEXT[:24], metrics=metrics, k=[100, 10], seeds=[0, 1, 2], **settings
    )
    by_name = {(each.over, each.metrics, each.k): each for each in stability.agreements}
    assert len(by_name) == 6
    # The weights' sizes do not depend on the texts.
    sizes = by_name["data", ("magnitude", "magnitude"), 10]
    assert (sizes.jaccard, sizes.n_pairs) == ((1, 1, 1), 3)
    assert sizes.spearman == (pytest.approx(1), pytest.approx(1), pytest.approx(1))
    data = by_name["data", ("grad_x_weight", "grad_x_weight"), 100]
    assert 0.1 < data.jaccard[0] < 1
    assert 0 <= data.jaccard[1] < data.jaccard[0] < data.jaccard[2] <= 1
    across = by_name["metric", ("grad_x_weight", "magnitude"), 100]
    tops = [
        score_weights(model, TOY_TEXT[:24], metric, **settings).ranking(100).keys()[:100]
        for metric in metrics
    ]
    assert across.jaccard[0] == jaccard(*tops)
    assert across.rank_biased_overlap[0] == rank_biased_overlap(*tops)
    assert across.jaccard[1] <= across.jaccard[0] <= across.jaccard[2]
    assert across.n_pairs == 1
    assert stability.to_pandas()["n_pairs"].tolist() == [3, 3, 3, 3, 1, 1]
    again = ranking_stability(
        model, TOY_TEXT[:24], metrics=metrics, k=[100, 10], seeds=[0, 1, 2], **settings
    )
    assert again.to_pandas().equals(stability.to_pandas())


def test_two_sets_of_texts_give_a_value_and_no_interval() -> None:
    stability = ranking_stability(
        loaded("toy-gpt2"), TOY_TEXT[:12], k=[50], seeds=[0, 1], layers=[1], batch_size=12
    )
    (only,) = stability.agreements
    assert 0 < only.jaccard[0] < 1
    assert all(math.isnan(end) for end in only.jaccard[1:])


def test_the_interval_of_a_mean_over_pairs_covers_the_truth_at_least_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    for n_sets in (4, 8):
        covered = 0
        for _ in range(1000):
            # Each set's own part is shared by all of its pairs, so pairs are not independent.
            own = torch.randn(n_sets, generator=generator, dtype=torch.float64)
            noise = 0.5 * torch.randn(n_sets, n_sets, generator=generator, dtype=torch.float64)
            table = own[:, None] + own + noise.triu(1) + noise.triu(1).T
            value, low, high = mean_over_pairs(table)
            assert value == pytest.approx(float(table[~torch.eye(n_sets, dtype=bool)].mean()))
            covered += low <= 0 <= high
        assert 0.94 <= covered / 1000 <= 0.995, n_sets
    # Two sets agree, and two others: leaving any out changes nothing, and yet little is known.
    twos = torch.tensor([0, 0, 1, 1])
    _, low, high = mean_over_pairs((twos[:, None] == twos).double())
    assert (low < 0, high > 1) == (True, True)


def test_a_mistaken_call_says_what_to_do() -> None:
    model = loaded("toy-gpt2")
    with pytest.raises(WeightError, match="give two or more seeds, or two metrics"):
        ranking_stability(model, TOY_TEXT, seeds=[0])
    with pytest.raises(UnknownNameError, match=r"called 'magnitud'. Did you mean 'magnitude'"):
        ranking_stability(model, TOY_TEXT, metrics=["magnitud"])
