"""The bundled models show what the toolkit is for: measured here, by the library, as they ship."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch

from mi_toolkit.core.tokens import tokenise
from mi_toolkit.heads.classify import classify_heads
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.models.describe import describe_model
from mi_toolkit.models.sources import find_source
from tests.models_here import TOYS, loaded

MEGABYTE = 10**6

COMPLETIONS = {
    "The capital of France is": " Paris",
    "2 + 2 =": " 4",
    "Count to 5:": " 1 2 3 4 5",
}


def folder(name: str) -> Path:
    return Path(find_source(name).location)


@cache
def standard(name: str) -> HeadReport:
    return classify_heads(loaded(name))


def continued(name: str, prompt: str, n_tokens: int) -> str:
    """Greedy continuation, by the library's own BOS policy."""
    model = loaded(name)
    ids = tokenise(model, prompt).ids
    start = ids.shape[1]
    for _ in range(n_tokens):
        with torch.no_grad():
            ids = torch.cat([ids, model(ids)[:, -1:].argmax(dim=-1)], dim=1)
    return str(model.tokenizer.decode(ids[0, start:]))


@pytest.mark.parametrize("name", TOYS)
@pytest.mark.parametrize("behaviour", ["previous_token", "induction", "first_token"])
def test_each_has_a_clean_head_on_random_tokens(name: str, behaviour: str) -> None:
    report = standard(name).on("repeated_random")
    assert float(report[behaviour].nan_to_num(-1).max()) >= 0.5
    assert report.heads(behaviour)


@pytest.mark.parametrize("name", TOYS)
@pytest.mark.parametrize("prompt", COMPLETIONS)
def test_each_knows_what_it_was_taught(name: str, prompt: str) -> None:
    expected = COMPLETIONS[prompt]
    assert continued(name, prompt, n_tokens=12).startswith(expected)


def test_the_windowed_model_has_local_and_global_heads_beyond_its_window() -> None:
    report = standard("toy-gpt-neo")
    assert max(report.tokens["natural"].lengths) > 2 * 32
    assert set(report.windows) == {None, 32}
    assert report.heads("local")
    assert report.heads("global")
    assert all(report.windows[head.layer] is None for head in report.heads("global"))


@pytest.mark.parametrize("name", TOYS)
def test_each_is_small_and_can_read_far(name: str) -> None:
    files = [path for path in folder(name).iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 3 * MEGABYTE
    facts = describe_model(loaded(name))
    assert facts.context >= 512
    stored = json.loads((folder(name) / "config.json").read_text())
    assert "float16" in (stored.get("dtype"), stored.get("torch_dtype"))


@pytest.mark.parametrize("name", TOYS)
def test_the_card_says_what_the_library_measures(name: str) -> None:
    card = json.loads((folder(name) / "card.json").read_text())
    report = standard(name).on("repeated_random")
    for behaviour in ("previous_token", "induction", "first_token"):
        best = card["measured"]["best_heads"][behaviour]
        # The card's script draws other random ids, and shares no code with the library.
        assert float(report[behaviour].nan_to_num(-1).max()) == pytest.approx(best["lift"], abs=0.1)
    assert (folder(name) / "README.md").is_file()


def test_the_architectures_differ_as_the_families_do() -> None:
    facts = {name: describe_model(loaded(name)) for name in TOYS}
    assert {name for name in TOYS if facts[name].positional == "rotary"} == {
        "toy-pythia",
        "toy-qwen2",
    }
    assert facts["toy-opt"].activation == "relu"
    assert facts["toy-pythia"].parallel_attention_mlp
    qwen2 = facts["toy-qwen2"]
    assert (qwen2.n_heads, qwen2.n_kv_heads, qwen2.normalisation) == (4, 2, "RMSNorm")
    assert qwen2.gated_mlp
