from __future__ import annotations

import pytest
import torch

from mi_toolkit.core.errors import GenerationError, PromptError, UnknownNameError
from mi_toolkit.core.model import HookedModel, weights_digest
from mi_toolkit.core.tokens import tokenise
from mi_toolkit.models.load import load_model
from mi_toolkit.weights.perturb import perturbed
from mi_toolkit.weights.prompt_effect import perturbation_effect
from mi_toolkit.weights.score import score_weights

PROMPT = "When Mary and John went to the store, John gave a drink to"


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return load_model("toy-gpt2")


def test_the_figures_are_those_of_the_model_inside_perturbed(model: HookedModel) -> None:
    top = score_weights(model, PROMPT).top(5)
    effect = perturbation_effect(model, PROMPT, top, n_random=3, max_new_tokens=5)
    ids = tokenise(model, PROMPT).ids

    def last() -> torch.Tensor:
        with torch.no_grad():
            logits: torch.Tensor = model(ids)[0, -1]
        return logits.log_softmax(dim=-1)

    clean = last()
    with perturbed(model, top):
        changed = last()
    target = int(clean.argmax())
    assert effect.before.token == effect.top_before[0].token == target
    assert effect.before.log_prob == pytest.approx(float(clean[target]), abs=1e-5)
    assert effect.after.log_prob == pytest.approx(float(changed[target]), abs=1e-5)
    assert effect.kl == pytest.approx(float((clean.exp() * (clean - changed)).sum()), abs=1e-5)
    assert effect.kl > 0
    assert effect.texts[0] != effect.texts[1]


def test_random_sets_are_as_many_weights_of_the_same_matrices(model: HookedModel) -> None:
    weights = [("blocks.0.attn.W_O", 1, 2), ("blocks.1.mlp.W_out", 3, 4)]
    effect = perturbation_effect(model, PROMPT, weights, n_random=4, max_new_tokens=0)
    assert effect.texts == ("", "")
    for each in effect.random_weights:
        assert [name for name, _, _ in each] == [name for name, _, _ in weights]
    assert len(set(effect.random_weights)) == 4
    table = effect.to_pandas()
    assert table["is_control"].tolist() == [False, *[True] * 4]
    assert table["kl"].tolist()[1:] == effect.random_kl.tolist()
    assert f"{effect.n_less} of 4" in str(effect)


def test_every_bit_is_back_also_after_an_error(model: HookedModel) -> None:
    before = weights_digest(model)
    weight = [("blocks.0.attn.W_O", 1, 2)]
    perturbation_effect(model, PROMPT, weight, n_random=1, max_new_tokens=1)
    assert weights_digest(model) == before
    calls = [0]

    def fails(activation: torch.Tensor, hook: object) -> None:
        calls[0] += 1
        if calls[0] > 1:  # the second run is the first with the weight changed
            assert weights_digest(model) != before
            raise GenerationError("stopped")

    stopped = pytest.raises(GenerationError, match="stopped")
    with stopped, model.hooks(fwd_hooks=[("blocks.0.hook_resid_post", fails)]):
        perturbation_effect(model, PROMPT, weight, n_random=0, max_new_tokens=0)
    assert weights_digest(model) == before


def test_what_cannot_be_asked_is_told(model: HookedModel) -> None:
    weight = ("blocks.0.attn.W_O", 1, 2)
    with pytest.raises(PromptError, match="one prompt at a time, and 2 were given"):
        perturbation_effect(model, ["a b", "c d"], [weight])
    with pytest.raises(PromptError, match="0 or more, not -1"):
        perturbation_effect(model, PROMPT, [weight], n_random=-1)
    with pytest.raises(UnknownNameError, match=r"Did you mean .*'blocks\.0\.attn\.W_O'"):
        perturbation_effect(model, PROMPT, [("blocks.0.attn.W_0", 1, 2)])
