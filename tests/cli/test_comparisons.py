"""`compare`, `sweep`, `stimuli` and `atlas`, run in this process: by their output and exit code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import mi_toolkit as mi
from mi_toolkit.cli.app import run

TEXT = "When Mary and John went to the store, John gave a drink to Mary and John."
PAIR = ["compare", "toy-gpt2", "toy-qwen2", TEXT, "--behaviours", "induction"]
SWEEP = ["sweep", "--lengths", "16", "32", "--behaviours", "induction", "--sequences", "8"]


def test_compare_writes_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, picture = tmp_path / "page.html", tmp_path / "picture.svg"
    files = ["--output", str(tmp_path), "--html", str(page), "--png", str(picture)]
    assert run([*PAIR, *files]) == 0
    out = capsys.readouterr().out
    comparison = mi.compare.ModelComparison.load(tmp_path)
    assert comparison.models == ("toy-gpt2", "toy-qwen2")
    assert "differ in architecture alone" in out
    share, chance = (
        float(t[0, 1]) for t in (comparison.agreement.share, comparison.agreement.chance)
    )
    assert f"{share:.0%}, {chance:.0%}" in out
    assert set(re.findall(r"Wrote (.+)", out)) == {
        str(tmp_path / name)
        for name in (
            "comparison.safetensors", "labels.csv", "agreement.csv", "page.html", "comparison.png",
            "picture.svg",
        )
    }  # fmt: skip
    assert "<svg" in picture.read_text(encoding="utf-8")
    assert "data:image/svg+xml" in page.read_text(encoding="utf-8")


def test_compare_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*PAIR, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["models"] == ["toy-gpt2", "toy-qwen2"]
    assert {row["label"] for row in found["labels"]} >= {"induction", "unclassified"}
    assert found["agreement"][0]["positions"] > 10


def test_lines_fit_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert run([*PAIR[:2], "toy-opt", "toy-pythia", *PAIR[2:]]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 60


STUDY = """
[[jobs]]
models = ["toy-gpt2"]
task = "ablation_sweep"
arguments = { prompt = "Mary and John went to" }

[[jobs]]
models = ["toy-gpt2"]
task = "classify"
arguments = { prompt = "PROMPT" }
"""


def test_a_study_is_swept_and_a_job_that_fails_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, folder = tmp_path / "study.toml", tmp_path / "results"
    command = ["sweep-run", str(study), "--output", str(folder)]
    study.write_text(STUDY.replace("PROMPT", ""), encoding="utf-8")
    assert run(command) == 1
    said = capsys.readouterr()
    assert re.search(r"toy-gpt2-ablation_sweep-\w+ +done", said.out)
    assert re.search(r"toy-gpt2-classify-\w+ +failed The prompt is empty", said.out)
    assert said.err.endswith("mi-toolkit: 1 of 2 jobs failed.\n")
    study.write_text(STUDY.replace("PROMPT", "one two one two"), encoding="utf-8")
    assert run([*command, "--json"]) == 0
    states = [row["state"] for row in json.loads(capsys.readouterr().out)["jobs"]]
    assert states == ["done", "done"]
    assert len(mi.open_sweep(folder).to_pandas("classify")) > 0
    study.write_text(STUDY.replace("prompt =", "promt ="), encoding="utf-8")
    assert run(command) == 2
    assert "Did you mean 'prompt'" in capsys.readouterr().err


@pytest.mark.slow
def test_sweep_tells_lengths_and_goes_on_from_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run([*SWEEP, "--output", str(tmp_path), "--html", str(tmp_path / "page.html")]) == 0
    first = capsys.readouterr().out
    assert re.search(r"induction\s+L2H0\s+\d\.\d\d\*\s+\d\.\d\d\*", first)
    assert mi.compare.LengthSweep.load(tmp_path).lengths == (16, 32)
    monkeypatch.setattr(
        "mi_toolkit.compare.lengths.classify_heads", lambda *_, **__: pytest.fail("again")
    )
    assert run([*SWEEP, "--output", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["labels"][0]["lengths"] == "16 32"


@pytest.mark.slow
def test_stimuli_tells_where_labels_hold_and_draws_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["stimuli", TEXT, "--behaviours", "induction", "--model", "toy-gpt2"]
    picture = tmp_path / "picture.svg"
    assert run([*asked, "--output", str(tmp_path), "--png", str(picture)]) == 0
    out = capsys.readouterr().out
    assert "toy-gpt2: repeated_random against natural" in out
    assert "toy-gpt2: repeated_random against prompt" in out
    files = ("stimuli.safetensors", "stimuli.csv", "stimuli.png", "picture.svg")
    assert set(re.findall(r"Wrote (.+)", out)) == {str(tmp_path / name) for name in files}
    kept = mi.compare.StimulusComparison.load(tmp_path / "stimuli.safetensors")
    assert [pair.behaviour for pair in kept.pairs] == ["induction"] * 3
    assert "rank correlation" in picture.read_text(encoding="utf-8")
    assert run([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    reports = [mi.classify_heads(mi.load_model("toy-gpt2"), t) for t in (None, TEXT)]
    pair = mi.compare.compare_stimuli({**reports[0].parts, "prompt": reports[1]}).pairs
    wanted = [each.rank_correlation for each in pair if each.behaviour == "induction"]
    assert [row["rank_correlation"] for row in found["pairs"]] == pytest.approx(wanted, abs=1e-6)


@pytest.mark.slow
def test_atlas_says_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["atlas", "toy-opt", "--output", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"toy-opt\s+previous_token 1, ", out)
    assert f"Wrote {tmp_path / 'index.html'}" in out
    assert run(["atlas", "toy-opt", "--output", str(tmp_path), "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)["models"]["toy-opt"]
    assert counts["induction"] == len(
        mi.atlas.HeadAtlas.load(tmp_path).report("toy-opt").heads("induction")
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["atlas", "--output", "x"], 2, "Say which models"),
        (["atlas", "toy-gpt2"], 2, "--output"),
        (["atlas", "toy-otp", "--output", "x"], 2, "Did you mean 'toy-opt'"),
        (["compare", "toy-gpt2", TEXT], 2, "A comparison takes two models or more"),
        (["compare", "toy-gpt2", "toy-otp"], 2, "Did you mean 'toy-opt'"),
        (["compare", "toy-gpt2", "toy-opt", "--bos"], 2, "go with a text of your own"),
        (["sweep", "--lengths", "2"], 1, "Lengths are 4 tokens or more"),
        (["sweep", "--lengths", "9999"], 1, "does not fit the context"),
        (["sweep", "one two", "--lengths", "64"], 1, "too few for a sequence of 64"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == code
    out, error = capsys.readouterr()
    assert out == ""
    assert message in error
    assert re.fullmatch(r"mi-toolkit: [^\n]+\n", error)
