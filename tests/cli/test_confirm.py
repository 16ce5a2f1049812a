"""`mi-toolkit confirm`: its table, its files, and the mistakes that it tells."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mi_toolkit import classify_heads
from mi_toolkit.cli import confirm as cli
from mi_toolkit.cli import options
from mi_toolkit.cli.app import run
from mi_toolkit.interventions.confirm import label_sets
from mi_toolkit.interventions.confirm.confirmation import Confirmation
from tests.models_here import loaded

FEW = ["--n-sequences", "3"]


def test_confirm_prints_a_line_for_each_label(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.safetensors"
    classify_heads(loaded("toy-gpt2")).save(report)
    asked = ["--report", str(report), "--labels", "induction", "duplicate_token", *FEW]
    assert run(["confirm", *asked, "--how", "zero", "--shapley"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Labels of toy-gpt2 under zero ablation\n")
    assert re.search(r"^induction +L2H0 +\+\d\.\d+ \[.* +75\.0 of 3 +undecided: beyond", out, re.M)
    assert re.search(r"^duplicate_token +– +not tested: no head", out, re.M)
    assert re.search(r"^ +L2H0's share +\+\d\.\d+ ± ", out, re.M)
    # Passes of up to 32 sets: those of one head a layer, and 15 others alone and with L2H0.
    assert "Values from nothing; seed 1, the sequences gave no label; 3 passes." in out


def test_confirm_writes_a_folder_and_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, page = tmp_path / "out", tmp_path / "page.html"
    asked = ["--labels", "induction", "--heads", "L2H0", "2.1", "--per-head", "--how", "zero", *FEW]
    assert run(["confirm", *asked, "--output", str(folder), "--html", str(page), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert not any("random_sets" in trial for trial in record["trials"])
    assert (record["how"], record["by"]) == ("zero", "head")
    assert [trial["heads"] for trial in record["trials"]] == [["L2H0"], ["L2H1"]]
    # The losses that it kept on the way are gone.
    assert sorted(path.name for path in folder.iterdir()) == [
        "confirmation.csv",
        "confirmation.png",
        "confirmation.safetensors",
    ]
    assert record["written"] == [
        *(str(folder / f"confirmation.{kind}") for kind in ("safetensors", "csv")),
        str(page),
        str(folder / "confirmation.png"),
    ]
    found = Confirmation.load(folder / "confirmation.safetensors")
    assert found.trials[0].effect.change == record["trials"][0]["effect"]["change"]
    assert "L2H1" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--heads", "L2H0"], 2, "--heads goes with one of --labels, and without --report"),
        (["--how", "men"], 2, "--how"),
        (["--n-random", "0"], 2, "--n-random.* Must be 1 or more"),
        (["--n-random", "100"], 2, "--n-random is 500 or more, except with --per-head"),
        (["--per-head", "--shapley"], 2, "--shapley and --budget are of sets of heads"),
        (["--report", "nothing.safetensors"], 1, "No head report at nothing.safetensors"),
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
    assert run(["confirm", *arguments]) == code
    assert re.search(message, capsys.readouterr().err)


def test_an_unknown_label_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["confirm", "--labels", "inducton", "--heads", "L2H0"]) == 2
    assert "Did you mean 'induction'" in capsys.readouterr().err


def test_counts_are_those_of_the_library() -> None:
    assert cli.MIN_RANDOM == label_sets.MIN_RANDOM
    assert cli.DEFAULT_BUDGET == label_sets.DEFAULT_BUDGET
