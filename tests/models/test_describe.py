"""The facts of loaded models, and the windows against the patterns that the models then show."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mi_toolkit.core.model import HookedModel, pattern_hook
from mi_toolkit.models.describe import describe_model
from mi_toolkit.models.load import load_model
from tests.tiny_models import tiny_model, tiny_tokenizer

ALTERNATING = ["sliding_attention", "full_attention"] * 2
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
TINY: dict[str, dict[str, Any]] = {
    "qwen2": {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 2},
    "qwen3": {},
    "mistral": {"sliding_window": 6},
    "gemma2": {"sliding_window": 6, "layer_types": ALTERNATING},
    "gemma3_text": {"sliding_window": 6, "layer_types": ALTERNATING},
    "llama": {"rope_parameters": {"rope_theta": 500000.0} | LLAMA3},
    "phi3": {"sliding_window": 6, "pad_token_id": 0},
    "gpt_neox": {"rotary_pct": 0.25, "num_key_value_heads": 4},
}
WINDOWS: dict[str, tuple[int | None, ...]] = {
    "qwen2": (None, None, 6, 6),
    "qwen3": (None,) * 4,
    "mistral": (6,) * 4,
    "gemma2": (6, None, 6, None),
    "gemma3_text": (6, None, 6, None),
    "llama": (None,) * 4,
    "phi3": (6,) * 4,
    "gpt_neox": (None,) * 4,
}


def tiny(model_type: str) -> HookedModel:
    return load_model(
        f"tiny-{model_type}",
        hf_model=tiny_model(model_type, **TINY[model_type]),
        tokenizer=tiny_tokenizer(),
    )


def patterns(model: HookedModel, tokens: torch.Tensor) -> dict[int, torch.Tensor]:
    seen: dict[str, torch.Tensor] = {}

    def keep(pattern: torch.Tensor, hook: Any) -> None:
        seen[hook.name] = pattern.detach()

    names = [pattern_hook(layer) for layer in range(model.cfg.n_layers)]
    with model.hooks(fwd_hooks=[(name, keep) for name in names]):
        model(tokens)
    return {layer: seen[name] for layer, name in enumerate(names)}


def visible(window: int | None, length: int) -> torch.Tensor:
    """By the definition: with a window of w, query q sees keys q-w+1 to q."""
    return torch.tensor(
        [
            [k <= q and (window is None or k > q - window) for k in range(length)]
            for q in range(length)
        ]
    )


@pytest.mark.parametrize("model_type", TINY)
def test_a_described_window_is_where_the_pattern_is_not_zero(model_type: str) -> None:
    model = tiny(model_type)
    windows = describe_model(model).windows
    assert windows == WINDOWS[model_type]
    length = 16
    tokens = torch.arange(1, length + 1)[None]
    for layer, pattern in patterns(model, tokens).items():
        expected = visible(windows[layer], length)
        assert torch.equal((pattern > 0).all(dim=(0, 1)), expected)
        assert torch.equal((pattern > 0).any(dim=(0, 1)), expected)


@pytest.mark.parametrize(
    ("model_type", "facts"),
    [
        (
            "qwen2",
            {"n_kv_heads": 2, "qkv_bias": True, "qk_norm": False, "normalisation": "RMSNorm"},
        ),
        ("qwen3", {"n_kv_heads": 2, "qkv_bias": False, "qk_norm": True, "gated_mlp": True}),
        ("mistral", {"attention_scope": "local (6 tokens) in every layer", "qkv_bias": False}),
        ("gemma2", {"activation": "gelu_pytorch_tanh", "tied_embeddings": True, "qk_norm": False}),
        ("gemma3_text", {"qk_norm": True, "rope_base": 1e6, "rope_local_base": 1e4}),
        ("llama", {"rope_base": 5e5, "rope_scaling": LLAMA3, "rotary_fraction": 1.0}),
        ("phi3", {"gated_mlp": True, "positional": "rotary", "rope_scaling": None}),
        ("gpt_neox", {"rotary_fraction": 0.25, "parallel_attention_mlp": True, "qkv_bias": True}),
    ],
)
def test_the_facts_of_a_family_are_read_off_its_model(
    model_type: str, facts: dict[str, Any]
) -> None:
    described = describe_model(tiny(model_type))
    assert {fact: getattr(described, fact) for fact in facts} == facts
    assert (described.d_model, described.d_head, described.n_heads) == (32, 8, 4)


def test_a_bare_hugging_face_model_is_described_like_its_bridge() -> None:
    bare = describe_model(tiny_model("qwen3"))
    bridged = describe_model(tiny("qwen3"))
    assert bare.name == ""
    for fact in "architecture n_kv_heads windows qk_norm parameters family".split():
        assert getattr(bare, fact) == getattr(bridged, fact)


def test_an_architecture_without_rotary_or_learned_positions_is_described() -> None:
    facts = describe_model(tiny_model("bloom", n_head=4, n_layer=2))
    assert (facts.positional, facts.rope_base, facts.activation) == ("alibi", None, "gelu")
