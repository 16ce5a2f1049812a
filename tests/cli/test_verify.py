"""`mi-toolkit verify`: its tables, its files, and its exit code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mi_toolkit.cli.app import run
from mi_toolkit.models import load as loading
from tests.verification.made import random_folder

FEW = ["--max-new-tokens", "5"]


def test_models_that_pass_are_tables_and_a_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, page = tmp_path / "out", tmp_path / "page.html"
    asked = ["toy-gpt2", "toy-qwen2", *FEW, "--output", str(folder), "--html", str(page)]
    assert run(["verify", *asked]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Verification of toy-gpt2: 12 passed, 2 not applicable\n")
    assert re.search(r"^logits +\S+ +≤ \S+ +passed +Largest difference of a logit", out, re.M)
    assert re.search(r"^'2 \+ 2 =' → .* \(loss \d\.\d\d, repetition \d+%\)$", out, re.M)
    assert re.search(r"^toy-qwen2 +passed +12 passed, 2 not applicable$", out, re.M)
    assert sorted(path.name for path in folder.iterdir()) == [
        "completions.csv",
        "toy-gpt2.png",
        "toy-gpt2.safetensors",
        "toy-qwen2.png",
        "toy-qwen2.safetensors",
        "verification.csv",
    ]
    assert "Verification of toy-gpt2, toy-qwen2" in page.read_text(encoding="utf-8")


def test_a_failed_check_is_exit_code_1_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = random_folder(tmp_path / "random", "qwen2")
    assert run(["verify", str(model), "--json"]) == 1
    captured = capsys.readouterr()
    data = json.loads(captured.out)
    assert data["models"][0]["passed"] is False
    assert len(data["models"][0]["completions"]) == 3
    assert captured.err.endswith(f"mi-toolkit: {model} failed coherence_loss.\n")


def test_a_mistake_is_told_before_any_model_is_loaded(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "load_model", lambda *_: pytest.fail("a model was loaded"))
    assert run(["verify", "toy-gpt2", "toy-gtp2"]) == 2
    assert "Did you mean 'toy-gpt2'" in capsys.readouterr().err
    assert run(["verify", "--max-new-tokens", "0"]) == 2
    assert "Must be 1 or more" in capsys.readouterr().err


def test_a_model_that_cannot_be_loaded_keeps_no_other_from_being_verified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = random_folder(tmp_path / "random", "qwen2")
    (model / "model.safetensors").unlink()
    assert run(["verify", str(model), "toy-gpt2", "--max-new-tokens", "4", "--json"]) == 1
    captured = capsys.readouterr()
    assert [each["model"] for each in json.loads(captured.out)["models"]] == ["toy-gpt2"]
    assert f"{model} could not be loaded: " in captured.err
