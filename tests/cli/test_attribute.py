"""`mi-toolkit attribute`: its table, its files, and the mistakes that it tells."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mi_toolkit.attribution.attribute import Attribution
from mi_toolkit.cli import options
from mi_toolkit.cli.app import run


def test_attribute_prints_a_line_for_each_token(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["attribute", "--target", " Mary", "--against", " John"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("What ' Mary' rather than ' John' rests on in toy-gpt2, by integrated_")
    assert re.search(r"^' Mary': \d+\.\d\d%, rank \d+$", out, re.M)
    assert len(re.findall(r"^ ?\d+  '", out, re.M)) == 15
    # What counts against the target ends in one column, what counts for it begins in the next.
    assert re.search(r"^ +token +score +against  for$", out, re.M)
    bars = re.findall(r"^( ?\d+  '.*?'\s+([+-])\d\.\d{3} +)(▇+)$", out, re.M)
    middle = {len(start) + (len(bar) + 2 if sign == "-" else 0) for start, sign, bar in bars}
    assert {sign for _, sign, _ in bars} == {"+", "-"}
    assert len(middle) == 1
    assert re.search(r"error 0\.\d\d% with\s\d+\ssteps, \d+ passes of\sthe\sprompt\.$", out, re.M)


def test_attribute_writes_a_folder_and_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, page = tmp_path / "out", tmp_path / "page.html"
    asked = ["The cat sat on the", "--model", "toy-qwen2", "--method", "occlusion"]
    asked += ["--target", "id:40", "--baseline", "zero", "--objective", "log_prob"]
    assert run(["attribute", *asked, "--output", str(folder), "--html", str(page), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["method"], record["baseline"], record["objective"]) == (
        "occlusion",
        "zero",
        "log_prob",
    )
    assert record["target"][0]["token"] == 40
    assert record["written"] == [
        str(folder / "attribution.safetensors"),
        str(folder / "attribution.csv"),
        str(page),
        str(folder / "attribution.png"),
    ]
    found = Attribution.load(folder / "attribution.safetensors")
    assert found.scores.tolist() == pytest.approx(record["scores"])
    assert "occlusion" in page.read_text(encoding="utf-8")


def test_a_method_without_a_baseline_has_no_sum(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["attribute", "The cat", "--method", "attention_rollout", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["completeness_error"] is None
    assert record["baseline"] is None


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--against", " John"], 2, "--against goes with a --target"),
        (["--target", "id:x"], 2, "'id:x' is no token id: write it as id:42"),
        (["--method", "gradients"], 2, "--method"),
        (["--steps", "0"], 2, "--steps.* Must be 1 or more"),
        (["--html", "."], 1, "is a folder"),
    ],
)
def test_a_mistake_is_told_before_a_model_is_loaded(
    arguments: list[str],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(options.LoadOptions, "load", lambda *_: pytest.fail("a model was loaded"))
    assert run(["attribute", *arguments]) == code
    assert re.search(message, capsys.readouterr().err)


def test_a_target_without_its_space_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["attribute", "--target", "store"]) == 1
    assert "' store' is one" in capsys.readouterr().err


def test_scores_that_do_not_add_up_are_refused_unless_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = ["attribute", "--model", "toy-qwen2", "--max-steps", "2"]
    assert run(asked) == 1
    assert "NOT within 1%" in (refused := capsys.readouterr().err)
    assert "allow_incomplete=True" in refused
    assert run([*asked, "--allow-incomplete", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["is_complete"] is False
