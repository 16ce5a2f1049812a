"""The dose curve and its controls, on trained models."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from mi_toolkit.errors import UnknownNameError, WeightError
from mi_toolkit.models.loading import load_model
from mi_toolkit.prompts.evaluation import evaluation_passages, halves, loss_batch
from mi_toolkit.sensitivity.controls import bottom, magnitude_matched, random_control
from mi_toolkit.sensitivity.edits import edits_of
from mi_toolkit.sensitivity.evaluation import qualities
from mi_toolkit.sensitivity.parameters import weight_matrices
from mi_toolkit.sensitivity.perturb import perturbed
from mi_toolkit.sensitivity.perturbation_test import perturbation_test
from mi_toolkit.sensitivity.score import score_weights
from tests.models_here import loaded, untouched
from tests.sensitivity.test_scorers import TEXTS, ids_of
from tests.sensitivity.toy_text import TOY_TEXT


def test_quality_equals_hugging_faces_text_by_text_whatever_the_batch() -> None:
    model, hf_model = loaded("toy-pythia"), untouched("toy-pythia")
    weights = [("blocks.1.attn.W_V", 3, 40), ("blocks.2.mlp.W_out", 100, 3)]
    edits = edits_of(weight_matrices(model), weights, "scale", 30.0, None)
    found = [
        qualities(model, loss_batch(model, TEXTS), [edits, edits], batch_size=size)
        for size in (1, 3)
    ]
    (baseline, (changed, again)), (other, (other_changed, _)) = found
    assert changed == again
    assert other.loss == pytest.approx(baseline.loss, rel=1e-5)
    assert other_changed.kl == pytest.approx(changed.kl, rel=1e-4)
    clean = rows_of(hf_model, ids_of(model))
    at = {"blocks.1.attn.W_V": (1 * 96 + 64 + 8, 3), "blocks.2.mlp.W_out": (3, 100)}
    for name, index in at.items():
        matrix = next(m for m in weight_matrices(model) if m.name == name)
        with torch.no_grad():
            hf_model.get_parameter(matrix.hf.name)[index] *= 30
    edited = rows_of(hf_model, ids_of(model))
    targets = torch.cat([torch.tensor(ids[1:]) for ids in ids_of(model)])
    for quality, rows in ((baseline, clean), (changed, edited)):
        loss = -rows[range(len(targets)), targets].mean()
        assert quality.loss == pytest.approx(float(loss), rel=1e-5)
        assert quality.accuracy == float((rows.argmax(dim=1) == targets).float().mean())
        assert quality.perplexity == math.exp(quality.loss)
    kl = (clean.exp() * (clean - edited)).sum(dim=1).mean()
    assert changed.kl == pytest.approx(float(kl), rel=1e-3)
    assert changed.kl > 1e-4
    assert baseline.kl == 0


def rows_of(hf_model: Any, texts: list[list[int]]) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat(
            [hf_model(torch.tensor([ids])).logits[0, :-1].log_softmax(dim=-1) for ids in texts]
        )


def test_controls_have_the_same_count_in_every_matrix_and_none_of_the_top() -> None:
    scores = score_weights(loaded("toy-gpt2"), TEXTS)
    top = scores.ranking(60).keys()
    weights = {name: matrix.value() for name, matrix in scores.live.items()}
    shapes = {place.name: place.shape for place in scores.places}
    drawn = random_control(top, shapes, torch.Generator().manual_seed(0))
    matched, lowest = magnitude_matched(top, weights), bottom(top, scores.scores)
    for control in (drawn, matched, lowest):
        assert sorted(name for name, _, _ in control) == sorted(name for name, _, _ in top)
        assert len(set(control)) == 60
    assert not set(matched) & set(top)
    for (name, row, column), (_, other_row, other_column) in zip(
        sorted(top, key=lambda at: list(weights).index(at[0])),
        sorted(matched, key=lambda at: list(weights).index(at[0])),
        strict=True,
    ):
        size, other = weights[name][row, column].abs(), weights[name][other_row, other_column].abs()
        assert abs(float(size - other)) < 0.1
    for name in {name for name, _, _ in lowest}:
        found = sorted(float(scores.scores[name][r, c]) for n, r, c in lowest if n == name)
        positive = scores.scores[name][scores.scores[name] > 0].sort().values
        assert found == positive[: len(found)].tolist()


def test_matched_weights_are_the_nearest_by_size() -> None:
    weights = {"m": torch.tensor([[1.0, -1.1, 3.0], [0.9, 5.0, -3.4]])}
    assert magnitude_matched([("m", 0, 0)], weights) == [("m", 0, 1)] or magnitude_matched(
        [("m", 0, 0)], weights
    ) == [("m", 1, 0)]
    assert magnitude_matched([("m", 1, 1), ("m", 0, 2)], weights) == [("m", 1, 2), ("m", 0, 1)]
    with pytest.raises(WeightError, match="m has no 4 weights beside the top"):
        magnitude_matched([("m", 0, 0), ("m", 0, 1), ("m", 0, 2), ("m", 1, 0)], weights)


@pytest.mark.parametrize("name", ["toy-gpt2", "toy-gpt-neo"])
def test_the_top_thousand_hurt_more_than_random_and_matched_weights(name: str) -> None:
    model: Any = load_model(name)
    before = [parameter.clone() for parameter in model.parameters()]
    scores = score_weights(model, TOY_TEXT[:24], batch_size=24)
    test = perturbation_test(model, scores, TOY_TEXT[24:], k=[1000], batch_size=24, progress=False)
    (row,) = test.summary().itertuples()
    assert row.top > row.random_mean + 5 * row.random_sd
    assert row.top > row.magnitude_matched
    assert row.top > row.bottom
    assert row.p == pytest.approx(1 / 21)
    assert all(map(torch.equal, before, model.parameters()))


def test_text_that_the_model_predicts_worse_than_chance_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = loaded("toy-gpt2")
    scores = score_weights(model, TEXTS, "magnitude")
    for texts, warned in ((["zqj xkw vbq"], True), (TOY_TEXT[:2], False)):
        caplog.clear()
        perturbation_test(model, scores, texts, k=[1], controls=[], progress=False)
        assert ("worse than even odds" in caplog.text) == warned


def test_a_dose_curve_is_what_perturbing_by_hand_gives() -> None:
    model = loaded("toy-gpt-neo")
    scores = score_weights(model, TEXTS)
    test = perturbation_test(
        model, scores, TEXTS, kinds=["zero", "gaussian"], k=[5, 1], n_random=3, progress=False
    )
    batch = loss_batch(model, TEXTS)
    with perturbed(model, scores.ranking(5).first(5)):
        by_hand, _ = qualities(model, batch, [], batch_size=8)
    assert test.rise("zero", 5) == [pytest.approx(by_hand.loss - test.baseline.loss, abs=1e-6)]
    table = test.to_pandas()
    assert len(table) == 1 + 2 * 2 * (1 + 3 + 1 + 1)
    assert table.iloc[0]["group"] == "baseline"
    assert set(table.groupby(["kind", "k", "group"]).size()) == {1, 3}
    again = perturbation_test(
        model, scores, TEXTS, kinds=["zero", "gaussian"], k=[1, 5], n_random=3, progress=False
    )
    assert again.to_pandas().equals(table)
    assert test.provenance.prompts == {"held_out": batch.digest}


def test_scoring_and_held_out_texts_do_not_meet() -> None:
    scoring, held_out = halves(evaluation_passages())
    assert (len(scoring), len(held_out)) == (64, 64)
    assert not set(scoring) & set(held_out)
    model = loaded("toy-gpt2")
    scores = score_weights(model, metric="magnitude")
    test = perturbation_test(model, scores, k=[1], controls=[], eval_limit=2, progress=False)
    assert scores.provenance.prompts["scoring"] != test.provenance.prompts["held_out"]
    assert scores.provenance.prompts["scoring"] == loss_batch(model, scoring).digest
    assert math.isnan(test.p_value("zero", 1))


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"kinds": ["zer"]}, UnknownNameError, "No kind of perturbation is called 'zer'"),
        ({"controls": ["randm"]}, UnknownNameError, "No control is called 'randm'"),
        ({"k": []}, WeightError, "needs at least one kind and one k"),
        ({"k": [10_000_000]}, WeightError, "k must be between 1 and the number of weights"),
    ],
)
def test_a_mistaken_call_says_what_to_do(keywords: dict[str, Any], error, message: str) -> None:
    scores = score_weights(loaded("toy-gpt2"), TEXTS, "magnitude")
    with pytest.raises(error, match=message):
        perturbation_test(loaded("toy-gpt2"), scores, TEXTS, **keywords)
