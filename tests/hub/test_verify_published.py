"""Published models, from simple to complex, verified (`pytest -m hub`)."""

from __future__ import annotations

import pytest

import mi_toolkit as mi

pytestmark = pytest.mark.hub

PUBLISHED = [
    "gpt2",
    "facebook/opt-125m",
    "EleutherAI/gpt-neo-125M",
    "EleutherAI/pythia-160m",
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    "Qwen/Qwen2.5-0.5B",
    "Qwen/Qwen3-0.6B",
]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_model_passes_every_check(name: str) -> None:
    found = mi.verify_model(name)
    assert found.passed, str(found)


def test_what_only_some_families_have_is_checked_there() -> None:
    qwen2 = mi.verify_model("Qwen/Qwen2.5-0.5B")
    assert qwen2.outcomes["qkv_bias"].verdict == "passed"
    assert "2 KV heads" in qwen2.outcomes["cache_shape"].sentence
    qwen3 = mi.verify_model("Qwen/Qwen3-0.6B")
    assert qwen3.outcomes["qk_norm"].verdict == "passed"
    assert qwen3.outcomes["qkv_bias"].verdict == "not applicable"
