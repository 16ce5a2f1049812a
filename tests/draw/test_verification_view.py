"""The page and the picture of a verification: every check with its verdict, all text escaped."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

from markupsafe import escape

from mi_toolkit import Page, verify_model
from mi_toolkit.draw.confirmation import view_verification
from mi_toolkit.draw.figures.confirmation import verification_figure
from mi_toolkit.verification.check_input import at_most
from mi_toolkit.verification.verify import Verification
from tests.models_here import loaded

HOSTILE = "</script><img src=x onerror=alert(1)>"


@cache
def found() -> Verification:
    return verify_model("toy-gpt2", model=loaded("toy-gpt2"), max_new_tokens=5)


def test_a_page_has_every_check_with_its_verdict_and_what_the_model_says() -> None:
    section = view_verification(found()).section()
    for name, outcome in found().outcomes.items():
        assert f"<th>{name}</th>" in section.body
        assert escape(outcome.sentence) in section.body
    assert section.body.count("<b>passed</b>") == 12
    assert section.body.count("<b>not applicable</b>") == 2
    for said in found().completions:
        assert escape(repr(said.text)) in section.body


def test_hostile_text_is_text() -> None:
    said = tuple(dataclasses.replace(each, text=HOSTILE) for each in found().completions)
    outcomes = dict(found().outcomes) | {"weights": at_most(0.0, 1.0, HOSTILE)}
    shown = dataclasses.replace(found(), model=HOSTILE, completions=said, outcomes=outcomes)
    document = Page([view_verification(shown)]).document()
    assert "<img" not in document
    assert document.count("</script>") == 1


def test_a_picture_has_a_line_to_a_check_and_says_failed_in_its_colour(tmp_path: Path) -> None:
    outcomes = dict(found().outcomes) | {"weights": at_most(0.0, 1.0, "one is gone")}
    shown = dataclasses.replace(found(), outcomes=outcomes)
    figure = verification_figure(shown)
    words = {text.get_text(): text.get_color() for text in figure.texts}
    assert set(shown.outcomes) <= set(words)
    assert words["failed"] == "#d55e00"
    view = view_verification(shown)
    view.save_png(tmp_path / "verification.png")
    assert (tmp_path / "verification.png").read_bytes().startswith(b"\x89PNG")
    view.save_html(tmp_path / "page.html")
    assert "one is gone" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_weights_that_did_not_load_leave_nothing_else_to_show() -> None:
    shown = dataclasses.replace(found(), completions=(), provenance=None)
    body = view_verification(shown).section().body
    assert "What it says" not in body
    assert "facts" not in body
