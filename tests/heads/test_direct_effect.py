"""Direct effects against the model's own logits, and norms against their own code."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm

from mi_toolkit.core.errors import UnsupportedModelError
from mi_toolkit.core.model import HookedModel, z_hook
from mi_toolkit.heads.direct_effect import (
    direct_effect,
    effective_unembedding,
    frozen_norm,
    output_weights,
    vocabulary_spread,
)
from mi_toolkit.models.load import load_model
from tests.models_here import TOYS, loaded
from tests.tiny_models import tiny_model, tiny_tokenizer

IDS = torch.randint(1, 300, (1, 24), generator=torch.Generator().manual_seed(0))


def recorded(model: HookedModel, name: str) -> torch.Tensor:
    """An activation on `IDS`, by TransformerLens' own hooks."""
    seen = []
    hook = (name, lambda activation, hook: seen.append(activation.clone()))
    with torch.no_grad(), model.hooks(fwd_hooks=[hook]):
        model(IDS)
    return seen[0]


def logits_from(model: HookedModel, layer: int, head: int) -> torch.Tensor:
    """What the head's write adds to every logit, its share of the final residual stream taken out.

    The model's own final norm is run with and without the write, each times its own scale: what is
    left is the norm with its scale held.
    """
    z = recorded(model, z_hook(layer))[0, :, head].double()
    write = z @ output_weights(model, layer)[head].double()
    last = recorded(model, f"blocks.{model.cfg.n_layers - 1}.hook_resid_post")[0].double()
    norm, unembedding = model.ln_final, model.W_U.double()
    bias = norm(torch.zeros_like(last, dtype=torch.float32)[None])[0].double()

    def scaled(x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True) if "RMS" not in type(norm).__name__ else x
        size = centred.pow(2).mean(-1, keepdim=True).sqrt()
        return (norm(x.float()[None])[0].double() - bias) * size

    return (scaled(last + write) - scaled(last)) @ unembedding


@pytest.mark.parametrize("name", TOYS)
def test_an_effect_is_what_the_write_does_to_the_logits_of_the_real_model(name: str) -> None:
    model = loaded(name)
    unembedding = effective_unembedding(model)
    z = recorded(model, z_hook(2))[0]
    target = IDS[0].roll(-1)
    weights = output_weights(model, 2)
    spread = vocabulary_spread(weights, unembedding.covariance)
    effects = direct_effect(z, weights, unembedding.directions(target), spread)
    for head in range(model.cfg.n_heads):
        logits = logits_from(model, 2, head)
        above = logits.gather(1, target[:, None])[:, 0] - logits.mean(dim=1)
        expected = above / logits.std(dim=1, correction=0)
        assert torch.allclose(effects[:, head].double(), expected, atol=2e-3)


@pytest.mark.parametrize(
    ("norm", "centred"),
    [(nn.LayerNorm(16), True), (nn.RMSNorm(16), False), (Gemma2RMSNorm(16), False)],
)
def test_a_norm_is_known_by_what_it_does(norm: nn.Module, centred: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(16, generator=generator))
        if getattr(norm, "bias", None) is not None:
            norm.bias.copy_(torch.randn(16, generator=generator))
    offset = 1.0 if isinstance(norm, Gemma2RMSNorm) else 0.0
    found = frozen_norm(norm, torch.zeros(16))
    assert found.centred == centred
    assert torch.allclose(found.gain, norm.weight.detach() + offset, atol=1e-4)
    a, b = torch.randn(2, 16, generator=generator)
    assert torch.allclose(found(a) @ b, a @ found.transposed(b), atol=1e-4)


def test_a_norm_behind_the_attention_is_part_of_what_a_head_writes() -> None:
    hf_model = tiny_model("gemma2")
    layer = hf_model.model.layers[1]
    with torch.no_grad():
        layer.post_attention_layernorm.weight.copy_(torch.linspace(-0.5, 0.5, 32))
    weight = layer.self_attn.o_proj.weight.detach().clone()
    model = load_model("gemma2", hf_model=hf_model, tokenizer=tiny_tokenizer())
    expected = (weight * torch.linspace(0.5, 1.5, 32)[:, None]).T.reshape(4, 8, 32)
    assert torch.allclose(output_weights(model, 1), expected, atol=1e-5)


def test_a_head_that_writes_nothing_has_no_effect() -> None:
    zero = direct_effect(
        torch.zeros(3, 2, 4), torch.ones(2, 4, 6), torch.ones(3, 6), torch.ones(2, 4, 4)
    )
    assert torch.equal(zero, torch.zeros(3, 2))


def test_a_projection_before_the_unembedding_is_refused() -> None:
    model = loaded("toy-gpt2")
    narrow = type("Narrow", (), {"__getattr__": lambda _, name: getattr(model, name)})()
    narrow.W_U = torch.zeros(32, 10)
    with pytest.raises(UnsupportedModelError, match="something other than one norm"):
        effective_unembedding(narrow)


def covariance_in_full(model) -> torch.Tensor:
    """Of the logits' directions over the vocabulary, by numpy's own, in float64."""
    gain = frozen_norm(model.ln_final, model.W_U[:, 0].detach()).gain.double()
    directions = (model.W_U.detach().double() * gain[:, None]).T
    return torch.from_numpy(np.cov(directions.numpy(), rowvar=False, bias=True))


def test_the_covariance_is_made_once_and_again_after_any_edit() -> None:
    """In place, by replacement, and through `.data`, which torch's version counter does not see."""
    hf_model = tiny_model("qwen2", tie_word_embeddings=False)
    model = load_model("mine", hf_model=hf_model, tokenizer=tiny_tokenizer())
    weight, norm = hf_model.lm_head, hf_model.model.norm

    def in_place() -> None:
        with torch.no_grad():
            weight.weight[5, 3] += 0.5

    def through_data() -> None:
        weight.weight.data[7] *= 2

    def two_coordinates_swapped() -> None:
        weight.weight.data = weight.weight.data[:, [1, 0, *range(2, 32)]].clone()

    def of_the_norm() -> None:
        norm.weight.data[0] = 3.0

    def nothing() -> None:
        pass

    edits = [nothing, in_place, through_data, two_coordinates_swapped, of_the_norm]
    for edit in edits:
        before = effective_unembedding(model)
        kept = before.covariance
        assert effective_unembedding(model).covariance is kept
        edit()
        after = effective_unembedding(model).covariance
        assert (after is kept) == (edit is nothing), edit.__name__
        assert torch.allclose(after.double(), covariance_in_full(model), rtol=1e-5, atol=1e-9)


def test_what_is_kept_goes_with_its_model() -> None:
    model = load_model("mine", hf_model=tiny_model("qwen2"), tokenizer=tiny_tokenizer())
    kept = weakref.ref(effective_unembedding(model).covariance)
    assert kept() is not None
    del model
    gc.collect()
    assert kept() is None
