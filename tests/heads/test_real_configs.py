"""Scores on the real architectures of the seven, with random weights, against the formulas.

Two layers of each at the real width; whole models under `slow`; some heads of every layer.
"""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from transformers import AutoModelForCausalLM

from mi_toolkit.core.tokens import from_sequences
from mi_toolkit.models.load import load_model
from mi_toolkit.models.specs import MODELS
from tests.hooked_transformer import needs_hooked_transformer
from tests.hub_cache import cut, hub_config, lay_out, shrunk
from tests.report_against_reference import assert_report_equals_formulas, hf_patterns
from tests.tiny_models import tiny_tokenizer

BEYOND_GPT_NEOS_WINDOW = 280
DEEP = ["EleutherAI/gpt-neo-125M", "Qwen/Qwen2.5-0.5B"]
"""A window in every other layer, and grouped queries: what depth could get wrong."""


def repeated(length: int, bos: int) -> list[int]:
    generator = torch.Generator().manual_seed(length)
    once = torch.randint(bos + 1, 250, (length // 2,), generator=generator).tolist()
    return [bos, *once, *once][:length]


def batch_for(name: str):
    lengths = [BEYOND_GPT_NEOS_WINDOW] if "neo" in name else [40, 33]
    return from_sequences([repeated(length, 0) for length in lengths], 0)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, in place of the machine's own."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def compare(
    name: str, config: dict, cache: Path, heads: range, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = lay_out(cache, name, config, tiny_tokenizer())
    batch = batch_for(name)
    hf_model = AutoModelForCausalLM.from_pretrained(
        snapshot, dtype=torch.float32, attn_implementation="eager"
    )
    patterns = hf_patterns(hf_model.eval(), batch)
    del hf_model
    assert_report_equals_formulas(load_model(name), patterns, batch, monkeypatch, heads=heads)


@pytest.mark.parametrize("name", MODELS)
def test_two_layers_of_each_of_the_seven(
    name: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = cut(hub_config(name), n_layers=2)
    compare(name, config, cache, range(0, MODELS[name].n_heads, 3), monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", DEEP)
def test_scores_at_real_size(name: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compare(name, hub_config(name), cache, range(1, MODELS[name].n_heads, 7), monkeypatch)


@pytest.mark.backend
@needs_hooked_transformer
@pytest.mark.parametrize("name", MODELS)
def test_hooked_transformer_and_bridge_give_the_same_report(
    name: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mi_toolkit.heads.classify import classify_heads
    from tests.report_against_reference import FIGURES, fed

    lay_out(cache, name, shrunk(hub_config(name)), tiny_tokenizer())
    batch = batch_for(name)
    monkeypatch.setattr("mi_toolkit.heads.classify.tokenise", fed(batch))
    reports = {}
    for backend in ("bridge", "hooked"):
        model = load_model(name, backend=backend)
        reports[backend] = classify_heads(model, "")
        assert reports[backend].provenance.backend == type(model).__name__
    bridge, hooked = reports["bridge"], reports["hooked"]
    assert bridge.windows == hooked.windows
    assert bridge.n_kv_heads == hooked.n_kv_heads
    for figure in FIGURES:
        torch.testing.assert_close(
            getattr(hooked, figure), getattr(bridge, figure), atol=1e-4, rtol=0, equal_nan=True
        )
    assert torch.equal(hooked.labels, bridge.labels)
    assert torch.equal(hooked.scope, bridge.scope)
