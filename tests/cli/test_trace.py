"""`mi-toolkit trace`: its tables, its files, and the mistakes that it tells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mi_toolkit.cli.app import run
from mi_toolkit.text.pipeline import Pipeline

PROMPT = "Mary and John went to"


def test_trace_prints_every_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["trace", PROMPT]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Pipeline of toy-gpt2 on 6 tokens\n")
    for title in ("Embedding", "Labelled heads", "Most active neurons", "After the prompt"):
        assert f"\n{title}" in out


def test_trace_writes_a_folder_and_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, page = tmp_path / "out", tmp_path / "page.html"
    asked = [PROMPT, "--model", "toy-opt", "--output", str(folder), "--html", str(page), "--json"]
    assert run(["trace", *asked]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [row["token"] for row in record["tokens_rows"]] == record["tokens"]["texts"]
    names = ["pipeline.safetensors"]
    names += [f"{stage}.csv" for stage in ("tokens", "attention", "mlp", "output", "lens")]
    assert record["written"] == [
        *(str(folder / name) for name in names),
        str(page),
        str(folder / "pipeline.png"),
    ]
    kept = Pipeline.load(folder / "pipeline.safetensors")
    assert kept.output.predictions[0].text == record["output"]["predictions"][0]["text"]
    assert "3. Attention" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([""], 1, "is empty"),
        ([PROMPT, "--top-k", "0"], 2, "Must be 1 or more"),
        ([PROMPT, "--report", "none.safetensors"], 1, "No head report at none.safetensors"),
    ],
)
def test_mistakes_are_told_in_a_line(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["trace", *arguments]) == code
    said = capsys.readouterr()
    assert message in said.err
    assert said.out == ""
