"""What reads weights reads what the model applies: adapters, parametrisations, packed weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import mi_toolkit as mi
from mi_toolkit.core.effective_weights import reading_obstacle
from mi_toolkit.core.errors import UnsupportedModelError
from mi_toolkit.heads.copying_heads import eigenvalue_ratios
from mi_toolkit.heads.direct_effect import output_weights, value_weights
from tests.families.zoo import ROWS, build
from tests.tiny_models import tiny_model, tiny_tokenizer

IDS = torch.randint(3, 300, (1, 12), generator=torch.Generator().manual_seed(0))


class LoRA(nn.Module):
    """A low-rank term next to a layer, as peft puts it."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        n_out, n_in = layer.weight.shape
        self.down = nn.Linear(n_in, 2, bias=False)
        self.up = nn.Linear(2, n_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.up(self.down(x))  # type: ignore[no-any-return]


class InItself(nn.Linear):
    """A layer that adds to what its weight gives."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 0.3 * input.flip(-1).mean(dim=-1, keepdim=True)


class Int8(nn.Module):
    """A weight packed in bytes, with its scale next to it."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.scale = float(layer.weight.detach().abs().max()) / 127
        self.bias = None
        packed = (layer.weight.detach() / self.scale).round().to(torch.int8)
        self.weight: Tensor
        self.register_buffer("weight", packed)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.to(x) * self.scale)


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def in_itself(layer: nn.Linear) -> nn.Linear:
    found = InItself(layer.in_features, layer.out_features, bias=False)
    found.weight = layer.weight
    return found


def doubled(layer: nn.Linear) -> nn.Linear:
    parametrize.register_parametrization(layer, "weight", Doubled())
    return layer


def hooked(layer: nn.Linear) -> nn.Linear:
    layer.register_forward_hook(lambda _, given, found: found + 0.3 * given[0])
    return layer


def weight_normed(layer: nn.Linear) -> nn.Linear:
    with pytest.warns(FutureWarning, match="weight_norm"):
        return nn.utils.weight_norm(layer)


KINDS: dict[str, Callable[[nn.Linear], nn.Module]] = {
    "adapter": LoRA,
    "subclass": in_itself,
    "forward hook": hooked,
    "weight norm": weight_normed,
    "parametrised": doubled,
    "packed": Int8,
}


def changed_model(change: Callable[[nn.Linear], nn.Module], *names: str) -> tuple[Any, Any]:
    """A hooked model with projections changed, and the like of it as plain weights."""
    torch.manual_seed(1)
    theirs = tiny_model("llama", num_key_value_heads=4)
    plain = tiny_model("llama", num_key_value_heads=4)
    for layer, twin in zip(theirs.model.layers, plain.model.layers, strict=True):
        for name in names:
            module = change(getattr(layer.self_attn, name))
            setattr(layer.self_attn, name, module.eval().requires_grad_(requires_grad=False))
            with torch.no_grad():
                applied = module(torch.eye(32))
                getattr(twin.self_attn, name).weight.copy_(applied.T)
    models = [mi.load_model("tiny", hf_model=each, tokenizer=tiny_tokenizer())
              for each in (theirs, plain)]  # fmt: skip
    return models[0], models[1]


@pytest.mark.parametrize("kind", KINDS)
def test_figures_are_those_of_the_model_with_its_effective_weights(kind: str) -> None:
    changed, plain = changed_model(KINDS[kind], "o_proj", "v_proj")
    torch.testing.assert_close(changed(IDS), plain(IDS), atol=1e-5, rtol=0)
    for layer in range(4):
        for read in (output_weights, value_weights):
            torch.testing.assert_close(read(changed, layer), read(plain, layer), atol=1e-6, rtol=0)
    found, wanted = (mi.direct_logit_attribution(m, IDS[0], target=5) for m in (changed, plain))
    torch.testing.assert_close(found.heads, wanted.heads, atol=1e-5, rtol=0)
    ratios, wanted_ratios = (eigenvalue_ratios(m, [0, 1, 2, 3]) for m in (changed, plain))
    torch.testing.assert_close(ratios, wanted_ratios, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("adapter", r"blocks.0.attn.o of tiny is a LoRA with layer in it.*merge_and_unload"),
        ("subclass", "InItself that applies something other than its weight"),
        ("forward hook", "Linear that applies something other than its weight"),
        ("weight norm", "weight-normed.*remove_weight_norm"),
        ("parametrised", "computed from others.*remove_parametrizations"),
        ("packed", r"quantised: a Int8 whose weight is torch.int8.*dequantize"),
    ],
)
def test_scoring_single_weights_of_these_is_refused_by_name(kind: str, reason: str) -> None:
    changed, _ = changed_model(KINDS[kind], "o_proj")
    with pytest.raises(UnsupportedModelError, match=reason):
        mi.score_weights(changed, IDS, "magnitude")


def test_a_layer_that_is_no_matrix_is_refused_by_name() -> None:
    theirs = tiny_model("llama", num_key_value_heads=4)

    class Squared(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input).square()

    for layer in theirs.model.layers:
        layer.self_attn.o_proj.__class__ = Squared
    model = mi.load_model("tiny", hf_model=theirs, tokenizer=tiny_tokenizer())
    with pytest.raises(UnsupportedModelError, match="a Squared that applies something other"):
        mi.direct_logit_attribution(model, IDS[0], target=5)


def test_an_unembedding_that_adds_something_is_read_with_it() -> None:
    theirs = tiny_model("llama")
    theirs.lm_head = in_itself(theirs.lm_head).requires_grad_(requires_grad=False)
    model = mi.load_model("tiny", hf_model=theirs, tokenizer=tiny_tokenizer())
    found = mi.direct_logit_attribution(model, IDS[0], target=5)
    assert float(found.logit) == pytest.approx(float(model(IDS)[0, -1, 5]), abs=1e-5)
    assert abs(found.residue) < 1e-5


def test_a_plain_layer_is_read_as_it_is_in_any_dtype() -> None:
    for dtype in (torch.float64, torch.bfloat16):
        layer = nn.Linear(64, 48).to(dtype)
        assert reading_obstacle(layer) is None
        assert reading_obstacle(type("Mine", (nn.Linear,), {})(64, 48).to(dtype)) is None


def test_a_weight_that_blocks_share_is_scored_once() -> None:
    theirs = tiny_model("llama")
    for layer in theirs.model.layers[1:]:
        layer.mlp.down_proj = theirs.model.layers[0].mlp.down_proj
    model = mi.load_model("tiny", hf_model=theirs, tokenizer=tiny_tokenizer())
    scores = mi.score_weights(model, IDS, "signed_grad_x_weight", components="W_out")
    assert [place.name for place in scores.places] == ["blocks.0.mlp.W_out"]


def test_values_of_no_matrix_are_refused_and_not_left_out_as_latent_ones_are() -> None:
    theirs = tiny_model("llama", num_key_value_heads=4)

    class Squared(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input).square()

    theirs.model.layers[1].self_attn.v_proj.__class__ = Squared
    model = mi.load_model("tiny", hf_model=theirs, tokenizer=tiny_tokenizer())
    with pytest.raises(UnsupportedModelError, match=r"blocks.1.attn.v of tiny is a Squared"):
        eigenvalue_ratios(model, [0, 1])


def test_an_adapter_on_outputs_of_latent_attention_is_refused_by_name() -> None:
    theirs = build(ROWS["deepseek_v3"])
    attention = theirs.model.layers[0].self_attn
    attention.o_proj = LoRA(attention.o_proj).requires_grad_(requires_grad=False)
    model = mi.load_model("tiny", hf_model=theirs, tokenizer=tiny_tokenizer())
    with pytest.raises(UnsupportedModelError, match=r"blocks.0.attn.o of tiny is a LoRA"):
        mi.direct_logit_attribution(model, IDS[0], target=5)
