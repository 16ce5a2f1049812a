from __future__ import annotations

import html
import re
from pathlib import Path

import torch

from mi_toolkit import untrained_control, view
from mi_toolkit.draw.page import Page
from mi_toolkit.draw.report import view_report
from tests.draw.made import NULL, made_report
from tests.models_here import loaded


def text(document: str) -> str:
    """What a reader reads: one space where tags stood."""
    body = document[document.index("<body>") :]
    body = re.sub(r"<(style|script|title).*?</\1>", " ", body, flags=re.DOTALL)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body)))


def test_the_table_has_every_labelled_head_with_its_interval_and_chance() -> None:
    report = made_report({"induction": torch.tensor([[0.93, 0.0], [0.5, 0.1]])})
    read = text(Page([view_report(report)]).document())
    assert "L0H0 0.93 [0.88, 0.98] L1H0 0.50 [0.45, 0.55]" in read
    assert f"{NULL:.2f}" in read
    assert "L1H1" not in read.split("Head by head")[0]


def test_it_says_how_to_read_it_and_how_far_to_trust_it() -> None:
    read = text(Page([view_report(made_report({"induction": torch.rand(2, 2)}))]).document())
    assert "0 is chance, 1 is perfect" in read
    assert "exceeds 0.3 beyond doubt" in read
    assert "A label is a hypothesis" in read


def test_one_untrained_twin_is_one() -> None:
    control = untrained_control(loaded("toy-gpt2"), "one two one two", n=1)
    assert repr(view(control)) == "View of 1 untrained twin of toy-gpt2"
    titles = [
        axes.get_title(loc) for loc in ("left", "center") for axes in view(control).figure().axes
    ]
    assert any("toy-gpt2: 1 untrained twin" in each and "twins" not in each for each in titles)


def test_it_says_what_the_figures_rest_on() -> None:
    read = text(Page([view_report(made_report({"induction": torch.rand(2, 2)}))]).document())
    assert "made in float32 as TransformerBridge" in read
    assert "prompt (8 × 3 tokens, with BOS)" in read
    assert "seed 0" in read
    assert "jackknife over texts" in read
    assert "mi-toolkit 0" in read


def test_what_could_not_show_says_what_would_show_it() -> None:
    report = made_report({"induction": torch.full((2, 2), torch.nan)})
    assert "not applicable here: needs" in text(Page([view_report(report)]).document())


def test_many_heads_are_folded_away_but_there() -> None:
    report = made_report({"induction": torch.full((5, 4), 0.9)})
    document = Page([view_report(report)]).document()
    assert "<summary>12 more</summary>" in document
    assert "L4H3" in document


def test_page_and_picture_are_written(tmp_path: Path) -> None:
    view = view_report(made_report({"diffuse": torch.rand(2, 2)}))
    view.save_html(tmp_path / "report.html")
    view.save_png(tmp_path / "report.png")
    assert repr(view) == "View of Heads of made: 2 layers × 2 heads"
    assert (tmp_path / "report.html").stat().st_size < 40_000
