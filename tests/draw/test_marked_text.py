"""The page and the picture of an attribution: every token is there, coloured, and escaped."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from markupsafe import escape

from mi_toolkit import Page, attribute
from mi_toolkit.attribution.attribute import Attribution
from mi_toolkit.attribution.methods import METHODS
from mi_toolkit.draw.figures.prompt import attribution_figure
from mi_toolkit.draw.marked_text import colours_of, view_attribution
from tests.models_here import loaded

PROMPT = "When Mary and John went to the store"
HOSTILE = "</script><img src=x onerror=alert(1)>"


def found(method: str = "occlusion") -> Attribution:
    return attribute(
        loaded("toy-gpt2"), PROMPT, (" Mary", " John"), method, steps=4, allow_incomplete=True
    )


@pytest.mark.parametrize("method", METHODS)
def test_every_token_is_in_the_heat_and_in_the_table(method: str) -> None:
    shown = found(method)
    section = view_attribution(shown).section()
    assert section.body.count("<span style=") == len(shown.tokens)
    assert section.body.count("<rect") == len(shown.tokens)
    for score in shown.scores.tolist():
        assert f"<td>{score:+.4f}</td>" in section.body
    assert METHODS[method].measures in section.caption
    assert ("orange against it" in section.caption) == METHODS[method].has_baseline
    assert escape("' Mary' rather than ' John'") not in section.title  # plain text
    assert section.title == f"What ' Mary' rather than ' John' rests on in toy-gpt2, by {method}"


def test_a_hostile_token_is_text_and_nothing_else() -> None:
    shown = found()
    tokens = (HOSTILE, *shown.tokens[1:])
    target = tuple(dataclasses.replace(each, text=HOSTILE) for each in shown.target)
    hostile = dataclasses.replace(shown, tokens=tokens, target=target, baseline=HOSTILE)
    document = Page([view_attribution(hostile)]).document()
    assert "<img" not in document
    assert document.count("</script>") == 1  # the page's own
    assert document.count(escape("<img src=x onerror=alert(1)>")) >= 4


def test_colours_are_white_at_zero_and_dark_at_the_largest_by_size() -> None:
    shown = found()
    scores = torch.zeros(len(shown.tokens))
    scores[1:3] = torch.tensor([2.0, -4.0])
    white, purple, orange = colours_of(dataclasses.replace(shown, scores=scores))[:3]
    assert (white, orange) == ("#ffffff", "#7f3b08")
    assert purple not in (white, orange)
    nothing = dataclasses.replace(shown, scores=scores * 0)
    assert set(colours_of(nothing)) == {"#ffffff"}


def test_what_is_not_complete_is_said_to_be_on_the_page_and_in_the_picture() -> None:
    shown = attribute(
        loaded("toy-qwen2"), PROMPT, (" Mary", " John"), max_steps=1, allow_incomplete=True
    )
    assert "NOT within 1%" in view_attribution(shown).section().caption
    words = " ".join(text.get_text() for text in attribution_figure(shown).figure.texts)
    assert "NOT within 1%" in words


def test_a_picture_has_a_box_to_a_token_and_keeps_them_on_the_sheet(tmp_path: Path) -> None:
    shown = attribute(loaded("toy-gpt2"), PROMPT * 3, 5, "gradient_norm")
    figure = attribution_figure(shown).figure
    boxes = figure.axes[0].patches
    assert len(boxes) == len(shown.tokens)
    assert max(box.get_x() + box.get_width() for box in boxes) <= figure.get_figwidth()
    assert max(box.get_y() + box.get_height() for box in boxes) < figure.get_figheight()
    view = view_attribution(shown)
    view.save_png(tmp_path / "attribution.png")
    assert (tmp_path / "attribution.png").read_bytes().startswith(b"\x89PNG")
    view.save_html(tmp_path / "page.html")
    assert "gradient_norm" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert repr(view).startswith("View of What ")
