"""The methods where the answer is known: by hand, and from attention computed by Hugging Face."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mi_toolkit import attribute
from mi_toolkit.attribution.methods import METHODS, attention_rollout, completeness_error
from mi_toolkit.attribution.question import Question, embeddings_of, mean_embedding, objective_of
from mi_toolkit.core.tokens import tokenise
from tests.attribution.linear import Linear
from tests.models_here import TOYS, loaded, untouched

PROMPT = "When Mary and John went to the store, John gave a drink to"
IDS = torch.tensor([2, 0, 3, 3])


def question(model: Any, ids: torch.Tensor, **options: Any) -> Question:
    embeddings = embeddings_of(model, ids)
    defaults: dict[str, Any] = {
        "objective": objective_of("logit", (1,)),
        "baseline": torch.zeros_like(embeddings),
        "steps": None,
        "max_steps": 64,
        "tolerance": 0.01,
        "batch_size": 3,
        "progress": False,
    }
    return Question(model=model, ids=ids, embeddings=embeddings, **defaults | options)


@pytest.fixture
def linear() -> Linear:
    generator = torch.Generator().manual_seed(0)
    return Linear(torch.randn(5, 6, generator=generator), torch.randn(4, 5, 6, generator=generator))


@pytest.mark.parametrize("method", ["integrated_gradients", "input_x_gradient", "occlusion"])
def test_of_a_linear_model_a_score_is_weight_times_what_changed(
    linear: Linear, method: str
) -> None:
    baseline = torch.randn(6, generator=torch.Generator().manual_seed(1)).expand(4, 6)
    asked = question(linear, IDS, baseline=baseline)
    by_hand = [
        float(linear.weights[place, 1] @ (linear.table[token] - baseline[0]))
        for place, token in enumerate(IDS.tolist())
    ]
    scores = METHODS[method].run(asked).scores
    torch.testing.assert_close(scores, torch.tensor(by_hand).double(), atol=1e-5, rtol=1e-5)
    value, without = asked.values(torch.stack([asked.embeddings, baseline])).tolist()
    assert completeness_error(scores, value, without) < 1e-5


def test_of_a_linear_model_the_gradient_is_its_weight(linear: Linear) -> None:
    scores = METHODS["gradient_norm"].run(question(linear, IDS)).scores
    torch.testing.assert_close(scores.float(), linear.weights[:, 1].norm(dim=-1))


@pytest.mark.parametrize("name", ["toy-gpt2", "toy-opt", "toy-qwen2"])
def test_occlusion_by_a_token_equals_writing_that_token(name: str) -> None:
    model = loaded(name)
    batch = tokenise(model, PROMPT)
    ids, target, stand_in = batch.ids[0], 7, 11
    found = attribute(model, ids, target, "occlusion", baseline=stand_in, batch_size=4)
    rows = ids.repeat(len(ids), 1)
    rows.fill_diagonal_(stand_in)
    with torch.no_grad():
        clean = untouched(name)(ids[None]).logits[0, -1, target]
        occluded = untouched(name)(rows).logits[:, -1, target]
    torch.testing.assert_close(found.scores, clean - occluded, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", TOYS)
def test_rollout_equals_the_layers_own_attention_multiplied_by_hand(name: str) -> None:
    ids = tokenise(loaded(name), PROMPT).ids
    with torch.no_grad():
        attentions = untouched(name)(ids, output_attentions=True).attentions
    length = ids.shape[1]
    places = range(length)
    row = [float(place == length - 1) for place in places]
    for layer in reversed([each[0].mean(dim=0) for each in attentions]):
        # From the top: what a row has of each position goes half to it, half to what it reads.
        row = [
            0.5 * row[key] + sum(0.5 * row[query] * float(layer[query, key]) for query in places)
            for key in places
        ]
    found = attribute(loaded(name), ids, method="attention_rollout")
    torch.testing.assert_close(found.scores, torch.tensor(row), atol=1e-5, rtol=1e-4)
    assert float(found.scores.sum()) == pytest.approx(1.0, abs=1e-5)
    other = attribute(loaded(name), ids, 5, "attention_rollout")
    assert torch.equal(found.scores, other.scores)


def test_rollout_of_one_token_is_all_of_it() -> None:
    answer = attention_rollout(question(loaded("toy-gpt2"), torch.tensor([3])))
    assert answer.scores.tolist() == pytest.approx([1.0])


@pytest.mark.parametrize("name", ["toy-gpt2", "toy-qwen2"])
def test_the_mean_embedding_is_that_of_the_table(name: str) -> None:
    table = untouched(name).get_input_embeddings().weight
    torch.testing.assert_close(
        mean_embedding(loaded(name)), table.detach().mean(dim=0), atol=1e-6, rtol=1e-4
    )


def test_what_does_not_add_up_is_an_error_in_the_size_of_the_difference() -> None:
    scores = torch.tensor([1.0, 2.0])
    assert completeness_error(scores, 3.0, 0.0) == 0.0
    assert completeness_error(scores, 5.0, 1.0) == pytest.approx(0.25)
    assert completeness_error(scores, -1.0, 1.0) == pytest.approx(2.5)
    assert completeness_error(scores, 1.0, 1.0) == float("inf")
    assert completeness_error(torch.zeros(2), 1.0, 1.0) == 0.0
