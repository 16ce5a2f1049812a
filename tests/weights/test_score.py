"""What holds for every score: what must not change it, and what it must not change."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch

from mi_toolkit.core.errors import PromptError, UnknownNameError, WeightError
from mi_toolkit.models.load import load_model
from mi_toolkit.weights.parameters import weight_matrices
from mi_toolkit.weights.score import score_weights
from mi_toolkit.weights.scorers import SCORERS, differentiable
from tests.hooked_transformer import FAMILIES, small_hooked
from tests.models_here import loaded
from tests.tiny_models import tiny_model, tiny_tokenizer
from tests.weights.test_scorers import TEXTS

FEW: dict[str, Any] = {"n_probes": 2, "n_steps": 2}
DATA_METRICS = [name for name in SCORERS if name not in ("random", "magnitude")]


def assert_equal(ours: Any, theirs: Any, share: float = 1e-5) -> None:
    """Every score is the same, up to a share of the largest of its matrix."""
    for name, score in ours.scores.items():
        atol = share * float(score.abs().max())
        torch.testing.assert_close(score, theirs.scores[name], atol=atol, rtol=0, msg=name)


# Each metric on one of the two: a fused projection, and grouped queries.
@pytest.mark.parametrize(
    ("name", "metric"), list(zip(cycle(["toy-pythia", "toy-qwen2"]), DATA_METRICS, strict=False))
)
def test_batch_size_padding_side_and_text_order_change_no_score(name: str, metric: str) -> None:
    model = load_model(name)
    one_by_one = score_weights(model, TEXTS, metric, batch_size=1, **FEW)
    assert_equal(one_by_one, score_weights(model, TEXTS, metric, batch_size=3, **FEW))
    assert_equal(one_by_one, score_weights(model, TEXTS[::-1], metric, batch_size=2, **FEW))
    model.tokenizer.padding_side = "left"
    assert_equal(one_by_one, score_weights(model, TEXTS, metric, batch_size=3, **FEW))


@pytest.mark.parametrize("metric", SCORERS)
def test_the_model_comes_back_bit_for_bit_and_as_it_was(metric: str) -> None:
    model: Any = load_model("toy-qwen2")
    model(torch.tensor([[1, 2]]))  # a bridge hooks itself in its first run
    model.train()
    parameters = list(model.original_model.parameters())
    parameters[3].requires_grad_(True)
    parameters[5].grad = torch.ones_like(parameters[5])
    weights = [parameter.detach().clone() for parameter in parameters]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    score_weights(model, TEXTS, metric, **FEW)
    assert all(map(torch.equal, weights, parameters))
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()] == hooks
    assert model.training
    assert all(module.training for module in model.modules())
    assert [index for index, p in enumerate(parameters) if p.requires_grad] == [3]
    assert [index for index, p in enumerate(parameters) if p.grad is not None] == [5]
    assert torch.equal(parameters[5].grad, torch.ones_like(parameters[5]))


def test_an_interrupt_in_the_middle_leaves_the_model_as_it_was() -> None:
    model: Any = load_model("toy-gpt2")
    weights = [parameter.detach().clone() for parameter in model.parameters()]

    def interrupted(logits: torch.Tensor, batch: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return logits.mean(dim=(1, 2))

    for metric in ("grad_x_weight", "weight_integrated_gradients", "hessian_diag"):
        calls: list[int] = []
        with pytest.raises(KeyboardInterrupt):
            score_weights(model, TEXTS, metric, objective=interrupted, batch_size=1, **FEW)
        assert all(map(torch.equal, weights, model.parameters())), metric
        assert not any(p.requires_grad or p.grad is not None for p in model.parameters()), metric
        assert not any(p._post_accumulate_grad_hooks for p in model.parameters()), metric


def test_two_runs_on_a_model_with_dropout_are_identical() -> None:
    hf_model = tiny_model(
        "gpt2", num_key_value_heads=4, resid_pdrop=0.5, attn_pdrop=0.5, embd_pdrop=0.5
    )
    model: Any = load_model("tiny", hf_model=hf_model, tokenizer=tiny_tokenizer())
    model.train()
    texts = ["hello world, the capital of France"]
    runs = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        runs.append(score_weights(model, texts, seed=seed).scores)
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


@pytest.mark.parametrize("metric", ["grad_x_weight", "wanda", "fisher", "hessian_diag"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_hooked_transformer_and_a_bridge_have_the_same_scores(
    name: str, metric: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooked, _ = small_hooked(name, tmp_path, monkeypatch)
    bridge = load_model(name)
    texts = ["hello world", "the capital of France is Paris"]
    groups = ["attn", "mlp"] + (["embeddings"] if metric in ("grad_x_weight", "fisher") else [])
    ours, theirs = (
        score_weights(model, texts, metric, components=groups, **FEW) for model in (hooked, bridge)
    )
    assert list(ours.scores) == list(theirs.scores)
    assert_equal(ours, theirs, 1e-3)


def test_scores_of_a_bfloat16_model_are_summed_in_float32() -> None:
    model = load_model("toy-gpt2", dtype="bfloat16")
    scores = score_weights(model, TEXTS, batch_size=1)
    assert {score.dtype for score in scores.scores.values()} == {torch.float32}
    assert scores.provenance.dtype == "bfloat16"
    whole = score_weights(loaded("toy-gpt2"), TEXTS)
    ours, theirs = (set(s.ranking(50).keys()) for s in (scores, whole))
    assert len(ours & theirs) >= 30


def test_gradients_that_the_caller_forbids_are_taken_all_the_same() -> None:
    model = loaded("toy-gpt2")
    with torch.no_grad():
        inside = score_weights(model, TEXTS, layers=[0])
    assert_equal(inside, score_weights(model, TEXTS, layers=[0]))
    with differentiable(model, weight_matrices(model)[:1]):
        assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"metric": "magnitud"}, UnknownNameError, "called 'magnitud'. Did you mean 'magnitude'"),
        ({"objective": "los"}, UnknownNameError, "No objective is called 'los'"),
        ({"texts": []}, PromptError, "The list of prompts is empty"),
        ({"texts": [""]}, PromptError, "The prompt is empty"),
        ({"texts": torch.tensor([[5]])}, PromptError, "Text 0 has one token"),
        ({"eval_limit": 0}, PromptError, "A limit of 0 texts"),
        ({"batch_size": 0}, WeightError, "batch_size must be 1 or more"),
        ({"parameters": "blocks.9.*"}, UnknownNameError, "No parameter is called 'blocks.9.*'"),
        ({"layers": [4]}, UnknownNameError, "No layer is called '4'"),
        ({"components": "W_gate"}, UnknownNameError, "No component is called 'W_gate'"),
        ({"layers": [0], "parameters": "embed.W_E"}, WeightError, "No parameter satisfies"),
        ({"metric": "wanda", "components": "norms"}, WeightError, "multiplies no activation"),
        ({"metric": "hessian_diag", "n_probes": 1}, WeightError, "needs n_probes=2 or more"),
        ({"objective": lambda logits, batch: logits.mean()}, WeightError, "one value per text"),
    ],
)
def test_a_mistaken_call_says_what_to_do(
    keywords: dict[str, Any], error: Any, message: str
) -> None:
    with pytest.raises(error, match=message.replace("*", r"\*")):
        score_weights(loaded("toy-gpt2"), **{"texts": TEXTS, **keywords})


def test_weights_that_are_not_numbers_are_refused_by_name() -> None:
    model = load_model("toy-gpt2")
    matrix = next(m for m in weight_matrices(model) if m.name == "blocks.2.attn.W_O")
    matrix.write(torch.tensor([7]), torch.tensor([9]), torch.tensor([float("nan")]))
    with pytest.raises(WeightError, match=r"blocks.2.attn.W_O has 1 weights .* at \[7, 9\]"):
        score_weights(model, TEXTS)


def test_a_layer_number_is_that_layer_alone() -> None:
    hf_model = tiny_model("llama", num_hidden_layers=12)
    model = load_model("tiny", hf_model=hf_model, tokenizer=tiny_tokenizer())
    scores = score_weights(model, ["hello world"], "magnitude", layers=[1])
    assert {place.layer for place in scores.places} == {1}
    assert len(scores.places) == 7
    by_pattern = score_weights(model, ["hello"], "magnitude", parameters="blocks.1.*")
    assert {place.layer for place in by_pattern.places} == {1}
