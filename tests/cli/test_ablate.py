"""`mi-toolkit ablate`: its tables, its files, and the mistakes that it tells."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mi_toolkit.cli import options
from mi_toolkit.cli.app import run
from mi_toolkit.interventions.effect import AblationEffect
from mi_toolkit.interventions.sweep import AblationSweep

PROMPT = "Mary and John went to"


def test_ablate_prints_what_changed_and_beside_what(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--components", "L2H0", "L1N5", "--target", " the", "--random-controls", "5"]
    assert run(["ablate", PROMPT, *asked, "--top-k", "3"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "L1N5 L2H0 of toy-gpt2 under zero ablation (values from nothing)\ntarget ' the': "
    )
    assert re.search(r"^log-probability of the target \(nats\) .* of 5$", out, re.M)
    assert re.search(r"^3 +'.*' +\d+\.\d%", out, re.M)
    assert not re.search(r"^4 ", out, re.M)
    assert re.search(r"^generated freely after the prompt:\nclean  +the", out, re.M)


def test_ablate_sweeps_every_head_and_writes_a_folder_and_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, page = tmp_path / "out", tmp_path / "page.html"
    files = ["--output", str(folder), "--html", str(page), "--json"]
    assert run(["ablate", PROMPT, "--sweep", "--target", "id:300", *files]) == 0
    record = json.loads(capsys.readouterr().out)
    assert len(record["heads"]) == 16
    assert record["clean"]["token"] == 300
    names = ["ablation.csv", "ablation.png", "ablation.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == names
    sweep = AblationSweep.load(folder / "ablation.safetensors")
    assert record["heads"][8]["kl"] == pytest.approx(float(sweep.kl[2, 0]))
    assert "Every head of toy-gpt2" in page.read_text(encoding="utf-8")
    assert run(["ablate", PROMPT, "--sweep"]) == 0
    assert "the 12 heads that change it most:" in capsys.readouterr().out


def test_ablate_writes_an_effect_that_can_be_read_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["-c", "L0.mlp", "--how", "mean", "--reference", "one two three", "--random-controls"]
    assert run(["ablate", PROMPT, *asked, "0", "--output", str(tmp_path), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    effect = AblationEffect.load(tmp_path / "ablation.safetensors")
    assert record["change"] == effect.change
    assert record["components"] == ["L0.mlp"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "--components L5H1 …, or --sweep every head"),
        (["--sweep", "-c", "L0H0"], 2, "leave out --components"),
        (["-c", "L0H0", "--target", "id:a"], 2, "'id:a' is no token id: write it as id:42"),
        (["-c", "nonsense"], 2, "'nonsense' names no part of a model"),
        (["--sweep", "--how", "zeros"], 2, "--how"),
        (["-c", "L0H0", "--random-controls", "-1"], 2, "Must be 0 or more"),
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
    assert run(["ablate", PROMPT, *arguments]) == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-c", "L9H0"], 2, "toy-gpt2 has no head L9H0"),
        (["-c", "L0H0", "--target", "Zanzibar"], 1, "'Zanzibar' is not one token of toy-gpt2"),
        (["-c", "L0H0", "--how", "resample"], 1, "at least as long as the prompt"),
    ],
)
def test_what_the_model_does_not_have_is_told(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["ablate", PROMPT, *arguments]) == code
    assert message in capsys.readouterr().err
