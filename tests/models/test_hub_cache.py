"""The seven load from a hub cache, offline, by name and alias, and equal Hugging Face's logits.

Real configs at their real width, cut to two layers; whole under `slow`. Weights are random.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from transformers import AutoModelForCausalLM

from mi_toolkit.models.describe import describe_model
from mi_toolkit.models.load import load_model
from mi_toolkit.models.sources import find_source
from mi_toolkit.models.specs import MODELS
from tests.hooked_transformer import needs_hooked_transformer
from tests.hub_cache import COMMIT, cut, hub_config, lay_out, move
from tests.tiny_models import tiny_tokenizer

TOKENS = torch.tensor([[0, 17, 4, 261, 8, 17, 4, 99]])

BACKENDS = [
    "bridge",
    pytest.param("hooked", marks=needs_hooked_transformer),
]


def hugging_face_logits(folder: Path, dtype: torch.dtype) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager")
    with torch.no_grad():
        return model.eval()(TOKENS).logits


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, in place of the machine's own."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module", params=MODELS)
def two_layers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path, torch.Tensor]]:
    """One of the seven in a cache of its own: its name, the cache, Hugging Face's logits."""
    cache = tmp_path_factory.mktemp("hub")
    config = cut(hub_config(request.param), n_layers=2)
    snapshot = lay_out(cache, request.param, config, tiny_tokenizer())
    yield request.param, cache, hugging_face_logits(snapshot, torch.float32)
    (snapshot / "model.safetensors").unlink()


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_of_the_seven_loads_by_its_name_with_hugging_faces_logits(
    two_layers: tuple[str, Path, torch.Tensor],
    backend: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, cache, logits = two_layers
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    model: Any = load_model(name, backend=backend)
    assert type(model).__name__ == (
        "TransformerBridge" if backend == "bridge" else "HookedTransformer"
    )
    torch.testing.assert_close(model(TOKENS), logits, atol=1e-4, rtol=1e-4)
    facts = describe_model(model)
    assert (facts.name, facts.family, facts.revision) == (name, MODELS[name].family, COMMIT)
    spec = MODELS[name]
    for fact in "n_heads n_kv_heads d_model d_head d_mlp d_vocab positional qkv_bias".split():
        assert getattr(facts, fact) == getattr(spec, fact), fact
    assert facts.windows == spec.windows[:2]


def test_each_of_the_seven_loads_by_every_alias(
    two_layers: tuple[str, Path, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, cache, logits = two_layers
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    for alias in MODELS[name].aliases:
        model: Any = load_model(alias)
        assert model.cfg.model_name == name
        torch.testing.assert_close(model(TOKENS), logits, atol=1e-4, rtol=1e-4)


def test_a_repo_cached_under_its_other_id_is_found_by_name(cache: Path) -> None:
    lay_out(cache, "gpt2", cut(hub_config("gpt2"), n_layers=1), tiny_tokenizer())
    move(cache, "gpt2", "openai-community/gpt2")
    assert find_source("gpt2").location == "openai-community/gpt2"
    assert describe_model(load_model("gpt2")).name == "gpt2"


def test_a_revision_is_looked_for_in_the_cache(cache: Path) -> None:
    config = cut(hub_config("pythia-160m"), n_layers=1)
    lay_out(cache, "EleutherAI/pythia-160m", config, tiny_tokenizer(), branch="step1000")
    model: Any = load_model("pythia-160m", revision="step1000")
    assert model.cfg.revision == COMMIT


def test_the_environment_alone_leads_to_the_cache(tmp_path: Path) -> None:
    config = cut(hub_config("gpt2"), n_layers=1)
    lay_out(tmp_path / "hub", "gpt2", config, tiny_tokenizer())
    code = "from mi_toolkit import load_model; print(load_model('gpt2-small').cfg.n_layers)"
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    shown = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:mi_toolkit", "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    assert shown.stdout.strip() == "1"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        # The largest is built at its real size by `make fire`, and by heads/test_real_configs.py.
        pytest.param(name, marks=pytest.mark.fire if name.startswith("Qwen/") else ())
        for name in MODELS
        if name not in {"gpt2-medium", "EleutherAI/pythia-410m"}
    ],
)
def test_one_of_each_family_loads_at_its_real_size(name: str, cache: Path) -> None:
    snapshot = lay_out(cache, name, hub_config(name), tiny_tokenizer(), dtype=torch.bfloat16)
    model: Any = load_model(name, dtype="bfloat16")
    facts = describe_model(model)
    assert facts.dtype == "bfloat16"
    assert facts.parameters == MODELS[name].parameters
    assert facts.windows == MODELS[name].windows
    logits = hugging_face_logits(snapshot, torch.bfloat16)
    # Two orders of the same sums, at eight bits of mantissa.
    torch.testing.assert_close(model(TOKENS), logits, atol=0.1, rtol=0.1)
