"""`mi-toolkit head`: its lines, its files, and what the next head takes over."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from mi_toolkit.cards.card import HeadCard
from mi_toolkit.cards.profile import HeadProfiles, profile_heads
from mi_toolkit.cli.app import run
from mi_toolkit.core.stimuli import passages
from tests.models_here import loaded

FEW = ["--n-sequences", "3", "--n-tokens", "20", "--how", "zero"]


@pytest.mark.slow
def test_head_prints_a_card_writes_a_folder_and_keeps_the_profiles(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts, kept, folder = tmp_path / "texts.jsonl", tmp_path / "toy.profiles", tmp_path / "out"
    texts.write_text("\n".join(json.dumps(text[:300]) for text in passages()[:6]), "utf-8")
    asked = ["--data-file", str(texts), "--profiles", str(kept), *FEW]
    assert run(["head", "L2H0", *asked, "--output", str(folder)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("L2H0 of toy-gpt2: induction\n")
    assert "what followed earlier copies" in out
    assert "works with" in out
    assert sorted(path.name for path in folder.iterdir()) == [
        "card.csv",
        "card.png",
        "card.safetensors",
    ]
    card = HeadCard.load(folder / "card.safetensors")
    assert card.n_documents == HeadProfiles.load(kept).n_documents == 6
    texts.unlink()
    assert run(["head", "0.0", *asked, "--json", "--html", str(tmp_path / "card.html")]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["n_documents"] == 6
    assert "is there: the card is of the 6 documents" in " ".join(said.err.split())


def test_head_tells_a_head_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["head", "L9H0", *FEW]) == 2
    assert "has no head L9H0" in capsys.readouterr().err


def test_a_data_set_is_read_as_far_as_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, kept = tmp_path / "corpus", tmp_path / "toy.profiles"
    corpus.mkdir()
    lines = [json.dumps({"passage": text[:200]}) for text in passages()[:9]]
    (corpus / "train.jsonl").write_text("\n".join(lines), "utf-8")
    asked = ["--dataset", str(corpus), "--field", "passage", "--profiles", str(kept), *FEW]
    assert run(["head", "L0H0", *asked, "--n-documents", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n_documents"] == 5
    file = profile_heads(
        loaded("toy-gpt2"), [text[:200] for text in passages()[:5]], progress=False
    )
    read = HeadProfiles.load(kept).lift()
    torch.testing.assert_close(read, file.lift(), rtol=0, atol=0, equal_nan=True)


def test_a_data_set_that_breaks_off_is_told_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = "".join(json.dumps({"text": "one two three"}) + "\n" for _ in range(3))
    (tmp_path / "train-0.jsonl").write_text(good)
    (tmp_path / "train-1.jsonl").write_text("{broken\n")
    assert run(["head", "L0H0", "--dataset", str(tmp_path), *FEW]) == 1
    said = " ".join(capsys.readouterr().err.split())
    # What `datasets` logs itself goes to a stream that a test before has closed.
    assert (
        f"The data set '{tmp_path}' (configuration default, split train) cannot be read: " in said
    )


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["--dataset", "no/such-set"], r"The data set 'no/such-set' .* cannot be read"),
        (["--dataset", "x", "--data-file", __file__], "not both"),
        (["--n-documents", "3"], "are of a --dataset"),
        (["--data-file", "none.txt"], r"There is no file none\.txt"),
    ],
)
def test_texts_that_cannot_be_read_are_told_before_the_model_loads(
    asked: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["head", "L0H0", *asked, *FEW]) != 0
    assert re.search(told, " ".join(capsys.readouterr().err.split()))
