"""`mi-toolkit generate`: its table, its files, and the mistakes that it tells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mi_toolkit.cli.app import run
from mi_toolkit.text.generation import Generation

PROMPT = "Mary and John went to"


def test_generate_prints_the_sequences_and_the_best_token_by_token(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["generate", PROMPT, "--num-beams", "2", "--max-new-tokens", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "toy-gpt2 goes on (2 beams) after 'Mary and John went to'"
    assert lines[1].split() == ["score", "log-probability", "tokens", "ended", "text"]
    assert len([line for line in lines if " the " in line]) >= 2
    assert lines[5].split() == ["step", "token", "probability", "most", "probable"]


def test_generate_writes_a_folder_and_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, page = tmp_path / "out", tmp_path / "page.html"
    asked = [PROMPT, "--max-new-tokens", "4", "--num-beams", "2", "--ablate", "L0H1", "2.0"]
    assert run(["generate", *asked, "--output", str(folder), "--html", str(page), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["hooks"] == ["blocks.0.attn.hook_z", "blocks.2.attn.hook_z"]
    assert [len(record[rows]) for rows in ("tokens", "alternatives")] == [8, 40]
    names = ["generation.safetensors", "tokens.csv", "alternatives.csv", "beams.csv"]
    assert record["written"] == [
        *(str(folder / name) for name in names),
        str(page),
        str(folder / "generation.png"),
    ]
    kept = Generation.load(folder / "generation.safetensors")
    assert [each.score for each in kept.sequences] == [
        each["score"] for each in record["sequences"]
    ]
    assert "<svg" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([""], 1, "is empty"),
        ([PROMPT, "--num-beams", "0"], 2, "Must be 1 or more"),
        ([PROMPT, "--max-new-tokens", "900"], 1, "ask for 506 at most"),
        ([PROMPT, "--ablate", "L9H0"], 2, "has no head L9H0"),
        ([PROMPT, "--model", "toy-gpt3"], 2, "Did you mean"),
    ],
)
def test_mistakes_are_told_in_a_line(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["generate", *arguments]) == code
    said = capsys.readouterr()
    assert message in said.err
    assert said.out == ""
