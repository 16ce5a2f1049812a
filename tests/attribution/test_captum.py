"""Equal to captum, which runs Hugging Face's own model on embeddings, with no hook near."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import captum.attr
import pytest
import torch

from mi_toolkit import attribute
from mi_toolkit.core.tokens import tokenise
from tests.models_here import TOYS, loaded, untouched

PROMPT = "When Mary and John went to the store, John gave a drink to"
TARGET, OTHER = 40, 41


@pytest.fixture(params=TOYS)
def setting(request: pytest.FixtureRequest) -> dict[str, Any]:
    name = request.param
    hf_model = untouched(name).requires_grad_(requires_grad=False)
    ids = tokenise(loaded(name), PROMPT).ids
    table = hf_model.get_input_embeddings()

    def contrast(embeddings: torch.Tensor) -> torch.Tensor:
        logits = hf_model(inputs_embeds=embeddings).logits[:, -1]
        return logits[:, TARGET] - logits[:, OTHER]

    return {"name": name, "ids": ids, "table": table, "inputs": table(ids), "forward": contrast}


def ours(setting: dict[str, Any], method: str, **options: Any) -> torch.Tensor:
    model = loaded(setting["name"])
    options = {"baseline": "zero", "allow_incomplete": True} | options
    return attribute(model, setting["ids"], (TARGET, OTHER), method, **options).scores


def assert_equal(scores: torch.Tensor, theirs: torch.Tensor) -> None:
    by_token = theirs[0].sum(dim=-1).float()
    torch.testing.assert_close(scores, by_token, atol=1e-3 * float(by_token.abs().max()), rtol=1e-3)


def test_integrated_gradients(setting: dict[str, Any]) -> None:
    forward: Callable[..., torch.Tensor] = setting["forward"]
    baseline = setting["table"](torch.tensor([[9]])).expand_as(setting["inputs"])
    for ours_from, theirs_from in (("zero", torch.zeros_like(baseline)), (9, baseline)):
        theirs = captum.attr.IntegratedGradients(forward).attribute(
            setting["inputs"], theirs_from, n_steps=24, internal_batch_size=8
        )
        assert_equal(ours(setting, "integrated_gradients", baseline=ours_from, steps=24), theirs)


def test_input_x_gradient(setting: dict[str, Any]) -> None:
    inputs = setting["inputs"].clone().requires_grad_()
    theirs = captum.attr.InputXGradient(setting["forward"]).attribute(inputs)
    assert_equal(ours(setting, "input_x_gradient"), theirs.detach())


def test_occlusion(setting: dict[str, Any]) -> None:
    inputs = setting["inputs"]
    one_token = torch.arange(inputs.shape[1])[None, :, None]
    theirs = captum.attr.FeatureAblation(setting["forward"]).attribute(
        inputs, feature_mask=one_token
    )
    # captum gives the whole effect of a token to each of its entries.
    assert_equal(ours(setting, "occlusion"), theirs[..., :1])
