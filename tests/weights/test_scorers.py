"""Every scorer against an independent computation."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from mi_toolkit.core.stimuli import loss_batch
from mi_toolkit.models.load import load_model
from mi_toolkit.weights.parameters import weight_matrices
from mi_toolkit.weights.ranking import spearman
from mi_toolkit.weights.score import score_weights
from tests.models_here import loaded, untouched
from tests.tiny_models import tiny_model, tiny_tokenizer
from tests.weights.reference import expected_scores, place_of

TEXTS = [
    "The Sahara is the largest hot desert in the world.",
    "Two plus two is four, and four plus four is eight. The cat sat.",
    "def add(a, b): return a + b",
]
FAMILIES = ["toy-gpt2", "toy-gpt-neo", "toy-pythia", "toy-opt", "toy-qwen2"]


def ids_of(model: Any, texts: list[str] = TEXTS) -> list[list[int]]:
    batch = loss_batch(model, texts)
    return [batch.sequence(index).tolist() for index in range(len(batch))]


@pytest.mark.parametrize("name", FAMILIES)
def test_gradient_scores_equal_autograd_per_example_on_the_hugging_face_model(name: str) -> None:
    model, hf_model = loaded(name), untouched(name)
    unembedding = hf_model.get_output_embeddings().weight
    read_by = next(n for n, weight in hf_model.named_parameters() if weight is unembedding)
    metrics = list(expected_scores(hf_model, ids_of(model), read_by))
    scores = {metric: score_weights(model, TEXTS, metric, batch_size=2) for metric in metrics}
    expected: dict[str, dict[str, Tensor]] = {}
    for place in scores["fisher"].places:
        if place.layer not in (0, 3):
            continue
        name = place.hf.name
        if name not in expected:
            expected[name] = expected_scores(hf_model, ids_of(model), name)
        for metric in metrics:
            ours = scores[metric].scores[place.name]
            theirs = place_of(expected[name][metric], place)
            atol = 1e-5 * float(theirs.abs().max())
            torch.testing.assert_close(ours, theirs, atol=atol, rtol=1e-3, msg=f"{metric} {place}")


def test_biases_norms_and_embeddings_are_scored_on_request_tied_ones_with_both_gradients() -> None:
    model, hf_model = loaded("toy-gpt2"), untouched("toy-gpt2")
    scores = score_weights(
        model, TEXTS, parameters=["*"], components=["embeddings", "norms", "b_K"]
    )
    assert {place.group for place in scores.places} == {"embeddings", "norms", "biases"}
    for place in scores.places:
        expected = expected_scores(hf_model, ids_of(model), place.hf.name)["grad_x_weight"]
        theirs = place_of(expected, place)
        atol = 1e-5 * float(expected.max())
        torch.testing.assert_close(scores.scores[place.name], theirs, atol=atol, rtol=1e-3)


def test_the_signed_score_is_the_slope_that_finite_differences_see() -> None:
    model = load_model("toy-pythia")
    scores = score_weights(model, TEXTS, "signed_grad_x_weight")
    hf_model = untouched("toy-pythia").double()
    drawn = scores.ranking(300).first(300)
    predicted, seen = [], []
    places = {place.name: place for place in scores.places}
    for index in range(0, 300, 10):
        row, column = drawn.rows[index, None], drawn.columns[index, None]
        place = places[drawn.names[drawn.matrix[index]]]
        parameter = hf_model.get_parameter(place.hf.name)
        at = place.hf.index(row, column)
        weight = float(parameter.detach()[at])
        losses = []
        for step in (0.02, -0.02):
            with torch.no_grad():
                parameter[at] = weight * (1 + step)
                losses.append(token_mean_loss(hf_model, ids_of(model)))
                parameter[at] = weight
        predicted.append(float(drawn.scores[index]))
        seen.append(-(losses[0] - losses[1]) / 0.04)
    torch.testing.assert_close(torch.tensor(predicted), torch.tensor(seen), atol=1e-4, rtol=0.02)
    assert spearman(torch.tensor(predicted), torch.tensor(seen)) >= 0.99


def token_mean_loss(hf_model: Any, texts: list[list[int]]) -> float:
    total = count = 0.0
    for ids in texts:
        with torch.no_grad():  # Hugging Face's own loss rounds to float32
            predicted = hf_model(torch.tensor([ids])).logits[0, :-1].log_softmax(dim=-1)
        total -= float(predicted[range(len(ids) - 1), ids[1:]].sum())
        count += len(ids) - 1
    return total / count


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("metric", ["wanda", "act_mag", "wanda_per_output"])
def test_input_scores_equal_sums_over_the_inputs_that_hugging_face_modules_see(
    name: str, metric: str
) -> None:
    model, hf_model = loaded(name), untouched(name)
    scores = score_weights(model, TEXTS, metric, batch_size=2)
    seen: dict[str, list[Tensor]] = {}
    for path, module in hf_model.named_modules():
        if path.rpartition(".")[0] and hasattr(module, "weight") and module.weight.ndim == 2:
            module.register_forward_pre_hook(
                lambda _, args, path=path: seen.setdefault(path, []).append(args[0])
            )
    with torch.no_grad():
        for ids in ids_of(model):
            hf_model(torch.tensor([ids]))
    for place in scores.places:
        inputs = torch.cat([x.flatten(0, -2) for x in seen[place.hf.name.removesuffix(".weight")]])
        weight = place_of(hf_model.get_parameter(place.hf.name), place).abs()
        size = inputs.abs().mean(dim=0) if metric == "act_mag" else inputs.norm(dim=0)
        expected = torch.einsum("io,i->io", weight, size)
        if metric == "wanda_per_output":
            expected = expected / expected.sum(dim=0)
        torch.testing.assert_close(scores.scores[place.name], expected, atol=1e-5, rtol=1e-3)


CURVED_TEXTS = ["hello world, the capital", "the capital of France is Paris"]


@pytest.fixture(scope="module")
def curved() -> tuple[Any, dict[str, Tensor]]:
    """A model of 480 weights, and the exact diagonal of its Hessian on `CURVED_TEXTS`."""
    hf_model = tiny_model(
        "llama",
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        intermediate_size=12,
    )
    # Near their beginning such models are almost flat.
    with torch.no_grad():
        for parameter in hf_model.parameters():
            parameter.mul_(8 if parameter.ndim == 2 else 1)
    exact_model = copy.deepcopy(hf_model)
    model = load_model("tiny", hf_model=hf_model, tokenizer=tiny_tokenizer())
    ids = ids_of(model, CURVED_TEXTS)
    places = score_weights(model, CURVED_TEXTS, "magnitude").places
    return model, {
        place.name: place_of(exact_diagonal(exact_model, ids, place.hf.name), place)
        for place in places
    }


def test_hutchinson_finds_the_exact_hessian_diagonal_within_its_standard_error(curved) -> None:
    model, diagonal = curved
    scores = score_weights(model, CURVED_TEXTS, "hessian_diag", n_probes=300)
    inside = total = 0
    for name, exact in diagonal.items():
        error = (scores.scores[name] - exact).abs()
        bound = 3 * scores.standard_error[name] + 1e-6
        inside += int((error <= bound).sum())
        total += exact.numel()
        assert float(exact.abs().max()) > 1e-4
    assert inside / total >= 0.99
    # So the ranking of many probes stands, and says how much of it does.
    noise = scores.ranking(10).noise
    assert noise.warning is None
    assert 0.5 < noise.kept <= borne_out(scores.scores, diagonal, 10)


def borne_out(scores: dict[str, Tensor], exact: dict[str, Tensor], k: int) -> float:
    """What the `k` highest really are, as a part of what they are said to be."""
    said, true = (torch.cat([each[name].flatten() for name in exact]) for each in (scores, exact))
    top = said.topk(k).indices
    return float(true[top].sum() / said[top].sum())


def test_a_ranking_of_few_probes_says_that_it_is_noise_as_the_exact_diagonal_does(curved) -> None:
    model, diagonal = curved
    n, k = 16, 20
    kept, true = [], []
    for seed in range(6):
        scores = score_weights(model, CURVED_TEXTS, "hessian_diag", n_probes=n, seed=seed)
        ranking = scores.ranking(k)
        places = ranking.keys()
        errors = [scores.standard_error[name][row, column] for name, row, column in places]
        assert ranking.standard_errors.tolist() == [float(error) for error in errors]
        n_within = sum(
            float(e) > abs(s) for e, s in zip(errors, ranking.scores.tolist(), strict=True)
        )
        assert (ranking.noise.n, ranking.noise.n_within) == (k, n_within)
        kept.append(ranking.noise.kept)
        halves = [
            scores.first_half,
            {m: 2 * scores.scores[m] - scores.first_half[m] for m in diagonal},
        ]
        true += [borne_out(half, diagonal, k) for half in halves]
    # What the other half says of a half's top is, on the mean, what the exact diagonal says of it.
    assert sum(kept) / len(kept) == pytest.approx(sum(true) / len(true), abs=0.1)
    assert sum(true) / len(true) < 0.3


def test_saliency_is_half_the_curvature_times_the_squared_weight() -> None:
    model = loaded("toy-opt")
    curvature, saliency = (
        score_weights(model, TEXTS, metric, n_probes=2, layers=[1])
        for metric in ("hessian_diag", "obd_hutchinson")
    )
    for place in curvature.places:
        half_square = 0.5 * score_weights(model, TEXTS, "magnitude").scores[place.name] ** 2
        expected = curvature.scores[place.name] * half_square
        torch.testing.assert_close(saliency.scores[place.name], expected)
        expected = curvature.standard_error[place.name] * half_square
        torch.testing.assert_close(saliency.standard_error[place.name], expected)


def exact_diagonal(hf_model: Any, texts: list[list[int]], name: str) -> Tensor:
    parameter = hf_model.get_parameter(name)
    total = sum(len(ids) - 1 for ids in texts)
    rows = [torch.tensor([ids]) for ids in texts]
    loss = sum(hf_model(row, labels=row).loss * (row.shape[1] - 1) / total for row in rows)
    gradient = torch.autograd.grad(loss, parameter, create_graph=True)[0].flatten()
    entries = [
        torch.autograd.grad(gradient[i], parameter, retain_graph=True)[0].flatten()[i]
        for i in range(len(gradient))
    ]
    return torch.stack(entries).view(parameter.shape)


def test_integrated_gradients_follow_the_path_and_add_up_to_the_change() -> None:
    model, hf_model = loaded("toy-gpt-neo"), untouched("toy-gpt-neo")
    scores = score_weights(model, TEXTS, "weight_integrated_gradients", n_steps=3)
    names = {place.hf.name for place in scores.places}
    kept = {name: hf_model.get_parameter(name).detach().clone() for name in names}
    place = scores.places[4]
    mean = torch.zeros(hf_model.get_parameter(place.hf.name).shape)
    for alpha in (1 / 6, 1 / 2, 5 / 6):
        with torch.no_grad():
            for name, weight in kept.items():
                hf_model.get_parameter(name).copy_(alpha * weight)
        signed = expected_scores(hf_model, ids_of(model), place.hf.name)["signed_grad_x_weight"]
        mean -= signed / alpha / 3
    expected = place_of(mean.abs(), place)
    ours = scores.scores[place.name]
    torch.testing.assert_close(ours, expected, atol=1e-5 * float(expected.max()), rtol=1e-3)
    with torch.no_grad():
        for name, weight in kept.items():
            hf_model.get_parameter(name).copy_(weight)
        after = token_mean_loss(hf_model, ids_of(model))
        for name in names:
            hf_model.get_parameter(name).zero_()
        before = token_mean_loss(hf_model, ids_of(model))
    fine = score_weights(model, TEXTS, "weight_integrated_gradients", n_steps=24)
    assert fine.facts["objective_change"] == pytest.approx(after - before, abs=1e-4)
    assert fine.facts["explained_change"] == pytest.approx(after - before, rel=0.03)
    assert fine.facts["completeness_gap"] < 0.03


def test_magnitude_is_the_weights_and_random_is_uniform_by_seed() -> None:
    model = loaded("toy-qwen2")
    magnitude = score_weights(model, TEXTS, "magnitude")
    for matrix in weight_matrices(model):
        if matrix.name in magnitude.scores:
            assert torch.equal(magnitude.scores[matrix.name], matrix.value().abs())
    random = [score_weights(model, TEXTS, "random", seed=seed).scores for seed in (0, 0, 1)]
    name = magnitude.places[0].name
    assert torch.equal(random[0][name], random[1][name])
    assert not torch.equal(random[0][name], random[2][name])
    assert not torch.equal(random[0][name], random[0][magnitude.places[3].name])
    assert abs(float(random[0][name].mean()) - 0.5) < 0.02


def test_fisher_equals_grad_squared_on_one_text_and_not_on_two() -> None:
    model = loaded("toy-opt")
    for texts, same in ((TEXTS[:1], True), (TEXTS[:2], False)):
        fisher, squared = (
            score_weights(model, texts, metric, layers=[1]).scores["blocks.1.mlp.W_in"]
            for metric in ("fisher", "grad_squared")
        )
        assert torch.allclose(fisher, squared, rtol=1e-4, atol=1e-12) == same


def test_an_objective_of_the_callers_own_counts_every_text_once() -> None:
    model, hf_model = loaded("toy-gpt2"), untouched("toy-gpt2")
    ids = torch.tensor([[0, 5, 9, 7], [0, 8, 3, 1]])

    def difference(logits: Tensor, batch: Any) -> Tensor:
        return logits[:, -1, 11] - logits[:, -1, 12]

    scores = score_weights(model, ids, objective=difference, batch_size=1, layers=[2])
    logits = hf_model(ids).logits[:, -1]
    weight = hf_model.get_parameter("transformer.h.2.mlp.c_proj.weight")
    gradient = torch.autograd.grad((logits[:, 11] - logits[:, 12]).mean(), weight)[0]
    expected = (gradient * weight).abs().detach()
    ours = scores.scores["blocks.2.mlp.W_out"]
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-3)
