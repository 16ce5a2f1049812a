"""The model guide's commands, and what the size of a model decides before it is loaded."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from mi_toolkit.cli.app import run
from mi_toolkit.cli.sensitivity_asked import budget_of
from mi_toolkit.models.memory_use import ModelSize, model_size
from mi_toolkit.models.sources import bundled_folder
from tests.conftest import ROOT
from tests.hub_cache import hub_config
from tests.models_here import loaded

GUIDE = """
--model gpt2 --metric grad_x_weight --topk 50
--model EleutherAI/pythia-160m --metric grad_x_weight --topk 100
--model EleutherAI/pythia-2.8b --metric grad_x_weight grad_squared --topk 100 500
--model EleutherAI/pythia-410m --topk 100 --output pythia410m/
--model EleutherAI/pythia-1.4b --topk 100 --output pythia1.4b/
--model distilgpt2 --topk 20 --eval-limit 5 --fast-perturbation
--model EleutherAI/pythia-70m --topk 50 --eval-limit 10
--model gpt2-medium --topk 100 --output gpt2_arch/
--model facebook/opt-350m --topk 100 --output opt_arch/
--model EleutherAI/pythia-410m --metric grad_x_weight grad_squared --topk 50 100 500 --eval-limit 9
--model distilgpt2 --topk 50 --output tiny_model/
--model meta-llama/Llama-2-7b-hf --metric grad_x_weight --topk 100 --eval-limit 10 --no-perturbation
--model gpt2 --topk 100 --data-file code_samples.txt --output natural_lang_on_code/
--model gpt2-xl --eval-limit 5 --no-perturbation
--model gpt2-large --no-perturbation --topk 50
""".strip().splitlines()
"""Models of the hub, which a machine without network has to name and refuse."""

ON_A_TOY = """
--metric grad_x_weight --topk 50
--metric grad_x_weight grad_squared --topk 100 500
--topk 100 --output made/
--topk 20 --eval-limit 5 --fast-perturbation
--metric grad_x_weight grad_squared --topk 50 100 500 --eval-limit 100
--metric grad_x_weight --topk 100 --eval-limit 10 --no-perturbation --output made/
--eval-limit 5 --no-perturbation
--fast-perturbation --eval-limit 10
""".strip().splitlines()
"""The same flags."""


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    lines = (ROOT / "tests" / "data" / "toy_text.txt").read_text().splitlines()[:6]
    (tmp_path / "code_samples.txt").write_text("\n".join(line[:60] for line in lines))
    return "code_samples.txt"


@pytest.mark.parametrize("command", GUIDE)
def test_the_guides_hub_models_are_known_and_refused_offline(
    command: str, texts: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["sensitivity", *shlex.split(command)]) == 1
    error = capsys.readouterr().err
    assert "is not in the cache" in error
    assert "HF_HUB_OFFLINE is set" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", ON_A_TOY)
def test_the_guides_flags_run_on_a_bundled_model(
    command: str, texts: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cheap = ["--model", "toy-gpt2", "--data-file", texts, "--fidelity", "0"]
    assert run(["sensitivity", *cheap, *shlex.split(command)]) == 0
    out = capsys.readouterr().out
    assert "Highest by grad_x_weight, per model" in out
    assert ("Rise in loss on held-out text" in out) != ("--no-perturbation" in command)
    assert Path("made/report.html").is_file() == ("--output" in command)


def test_a_model_of_ones_own_is_read_from_its_folder(
    texts: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(bundled_folder("toy-opt"))
    some = ["--metric", "grad_x_weight", "--topk", "3", "--data-file", texts, "--no-perturbation"]
    assert run(["sensitivity", "--model", folder, *some, "--device-map", "cpu"]) == 0
    assert "Highest by grad_x_weight, per model (3 weights)" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["toy-gpt2", "toy-qwen2", "toy-pythia"])
def test_the_size_by_the_config_is_that_of_the_loaded_model(name: str) -> None:
    model: Any = loaded(name)
    size = model_size(name)
    n = sum(p.numel() for p in {id(p): p for p in model.original_model.parameters()}.values())
    assert size.n_layers == 4
    from mi_toolkit.weights.parameters import weight_matrices

    scored = [m for m in weight_matrices(model) if m.group in ("attn", "mlp")]
    assert size.n_block_weights == sum(matrix.size for matrix in scored)
    everything = weight_matrices(model)
    assert size.n_parameters <= n
    # OPT's and GPT-2's tables of positions may hold rows that no text uses.
    assert 0 <= size.n_parameters - sum(m.size for m in everything) < 0.01 * size.n_parameters


def sized(billions: float) -> ModelSize:
    n = round(billions * 1e9)
    return ModelSize(name="large", n_parameters=n, n_layers=10, n_block_weights=n * 9 // 10)


ASKED: dict[str, Any] = {"dtype": "float32", "free": None, "perturbing": True, "fast": False}


def test_size_decides_what_is_run_and_says_so() -> None:
    small = budget_of(sized(0.05), **ASKED, forced=False)
    assert (small.perturbing, small.blocks_at_once, small.notes) == (True, None, ())
    middle = budget_of(sized(2.8), **ASKED, forced=False)
    assert middle.perturbing
    assert "2.8B parameters: it takes about 21.3 GB (weights 11.2 in float32" in middle.notes[0]
    assert "2.8B parameters: --fast-perturbation saves most of the time" in middle.notes[1]
    fast = budget_of(sized(2.8), **{**ASKED, "fast": True}, forced=False)
    assert len(fast.notes) == 1
    large = budget_of(sized(13), **ASKED, forced=False)
    assert not large.perturbing
    assert "the weights are scored and not tested. --force-perturbation" in large.notes[1]
    forced = budget_of(sized(13), **ASKED, forced=True)
    assert forced.perturbing
    assert "--fast-perturbation saves" in forced.notes[1]


def test_gradients_that_do_not_fit_are_taken_a_few_blocks_at_a_time() -> None:
    some = {**ASKED, "dtype": "bfloat16", "forced": False}
    # 2 GB of weights, 3.6 GB of gradients in ten blocks of 0.36 GB; a tenth is left free.
    for free, blocks in ((6.3e9, None), (6.2e9, 9), (3.0e9, 1), (1e9, 1)):
        budget = budget_of(sized(1), **{**some, "free": round(free)})
        assert budget.blocks_at_once == blocks, free
    assert "1 of 10 blocks at once" in budget.notes[0]
    assert "That will not fit." in budget.notes[0]
    chosen = budget_of(sized(1), **{**some, "free": round(100e9)}, blocks_at_once=4)
    assert chosen.blocks_at_once == 4


def test_a_large_model_is_told_of_before_its_weights_are_read(
    tmp_path: Path, texts: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "large"
    folder.mkdir()
    config = hub_config("Qwen/Qwen2.5-0.5B")
    config |= {"hidden_size": 4096, "intermediate_size": 16384, "num_hidden_layers": 32}
    config |= {"num_attention_heads": 32, "num_key_value_heads": 32}
    (folder / "config.json").write_text(json.dumps(config))
    assert run(["sensitivity", "--model", str(folder), "--data-file", texts]) == 1
    size, decision, failure = capsys.readouterr().err.splitlines()
    assert "parameters: it takes about" in size
    assert "GB are free" in size
    assert "are scored and not tested" in decision
    # By how much memory there is here, or because it has no weights.
    assert "does not fit" in failure or "cannot be loaded" in failure or "tokenizer" in failure
