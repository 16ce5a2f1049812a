"""Induction heads whose copying is shown, is not, or was not measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import mi_toolkit as mi
from mi_toolkit.cli.report_text import report_lines
from mi_toolkit.draw.head_maps import label_map
from tests.draw.made import made_report
from tests.models_here import loaded

FOOTNOTE = "what the head does to the logits of the tokens that it looks at"


def text_of(report: mi.HeadReport, width: int = 10_000) -> str:
    return "\n".join(report_lines(report, width=width, emphasise=str))


@pytest.fixture(scope="module")
def shown() -> mi.HeadReport:
    """Four induction heads: one copies, of two it is not known, of the last it was not measured."""
    report = made_report({"induction": torch.full((1, 4), 0.9), "diffuse": torch.zeros(1, 4)})

    def row(*values: float) -> torch.Tensor:
        return torch.tensor([[values], [[torch.nan] * 4]])

    nan = torch.nan
    measured = replace(
        report,
        copying=row(2.0, 0.1, -0.1, nan),
        copying_low=row(1.0, -0.5, -0.4, nan),
        copying_high=row(3.0, 0.7, 0.3, nan),
    )
    return measured.label(require_copying=False)


def test_a_row_says_whose_copying_is_not_shown(shown: mi.HeadReport) -> None:
    assert [shown.copying_shown("induction", (0, head)) for head in range(4)] == [
        True, False, False, None,
    ]  # fmt: skip
    unsure = ["induction, copying not shown"]
    assert [shown.labels_in_words((0, head)) for head in range(4)] == [
        ["induction"], unsure, unsure, ["induction"],
    ]  # fmt: skip
    assert shown.copying_shown("diffuse", "L0H0") is None
    table = shown.to_pandas().query("behaviour == 'induction'")
    assert table["copying_shown"].isna().tolist() == [False, False, False, True]
    assert table["copying_shown"].fillna(True).tolist() == [True, False, False, True]
    assert set(table["label"]) == {"induction"}
    assert label_map(shown).cells[1].tip == "L0H1: induction, copying not shown"
    for width in (60, 10_000):
        text = text_of(shown, width)
        assert text.count("copying not shown") == 2 + text.count("copying not shown: what")
    assert "L0H1 0.90 copying not shown +0.1" in dict(shown.summary())["induction"]


def test_copying_may_be_asked_for(shown: mi.HeadReport) -> None:
    asked = shown.label(require_copying=True)
    assert asked.heads("induction") == [(0, 0)]
    assert len(shown.heads("induction")) == 4
    assert "induction asks that the head is shown to copy, too" in text_of(asked)
    assert asked.label(require_copying=False).heads("induction") == shown.heads("induction")


def test_labels_asked_for_are_kept_in_a_file_of_several_stimuli(tmp_path: Path) -> None:
    report = mi.classify_heads(loaded("toy-gpt2"), behaviours=["induction", "diffuse"])
    parts = {
        name: replace(part, copying_low=part.copying_low - 10)
        for name, part in report.parts.items()
    }
    unsure = replace(report, parts=parts).label(require_copying=False)
    (head,) = unsure.heads("induction")
    assert unsure.labels_in_words(head) == ["induction, copying not shown"]
    asked = unsure.label(require_copying=True)
    assert asked.heads("induction") == []
    asked.save(tmp_path / "report")
    assert mi.HeadReport.load(tmp_path / "report").heads("induction") == []
    assert report.label(require_copying=True).heads("induction") == [head]


def test_footnotes_stand_only_where_they_apply(shown: mi.HeadReport) -> None:
    assert f"copies, copying not shown: {FOOTNOTE}" in " ".join(text_of(shown).split())
    assert "suppresses" not in text_of(shown)
    none = made_report({"induction": torch.full((1, 4), 0.1)})
    assert "copies" not in text_of(none)
    assert "whether the head raises or lowers" not in mi.Page([mi.view(none)]).document()
    assert "whether the head raises or lowers" in mi.Page([mi.view(shown)]).document()
    assert "A label needs its interval's lower end at lift 0.3" in text_of(none)
    nothing = made_report({"induction": torch.full((1, 4), torch.nan)})
    assert "A label" not in text_of(nothing)
