"""The five stages and what the model writes, clicked through as a visitor does."""

from __future__ import annotations

import pytest

from tests.browser.app_server import Visit
from tests.browser.conftest import OpenApp

REPEATS = "one two three four one two three four one two"
HOSTILE = "</script><img src=x onerror=alert(1)> {{this}} ${alert(2)}"

pytestmark = pytest.mark.browser


def analyzed(visit: Visit, prompt: str | None = None, *, model: str | None = None) -> None:
    """Analyze, and wait for the map of heads and the texts of this run."""
    old = "document.querySelectorAll('.heads, .beams').forEach(e => e.dataset.old = '')"
    visit.page.evaluate(old)
    visit.analyze(prompt, model=model)
    visit.page.wait_for_selector("#head-map .heads:not([data-old])")
    visit.page.wait_for_selector("#beam-texts .beams:not([data-old])")


def test_a_head_is_chosen_by_keyboard_and_keeps_the_focus(open_app: OpenApp) -> None:
    visit = open_app()
    page = visit.page
    analyzed(visit, "Mary and John went to the store")
    page.click('#head-map [data-pick="L1H2"]')
    page.locator("#head h3", has_text="L1H2").wait_for()
    page.wait_for_selector('#head-map [data-pick="L1H2"][aria-pressed="true"]')
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    page.locator("#head h3", has_text="L2H1").wait_for()
    page.wait_for_selector('#head-map [data-pick="L2H1"][aria-pressed="true"]')
    page.wait_for_function("document.activeElement.dataset.pick === 'L2H1'")
    assert page.locator("#head-map [tabindex='0']").count() == 1
    assert page.locator("#head-map [aria-pressed='true']").count() == 1
    visit.clean()


def test_a_label_lists_its_heads_and_lights_them_up(open_app: OpenApp) -> None:
    visit = open_app()
    page = visit.page
    analyzed(visit, REPEATS)
    page.click('#head-labels [data-pick="previous_token"]')
    page.locator("#label-heads h3", has_text="previous_token").wait_for()
    listed = page.locator("#label-heads [data-pick]").all_inner_texts()
    lit = page.locator("#head-map button:not(.pale)")
    assert [each.get_attribute("data-pick") for each in lit.all()] == listed
    page.click(f'#label-heads [data-pick="{listed[0]}"]')
    page.locator("#head h3", has_text=listed[0]).wait_for()
    assert "previous_token" in page.inner_text("#head .carried")
    page.click('#head-labels [data-pick="previous_token"]')
    page.locator("#label-heads", has_text="Click a label").wait_for()
    assert page.locator("#head-map .pale").count() == 0
    visit.clean()


def test_what_a_prompt_cannot_show_offers_one_that_can(open_app: OpenApp) -> None:
    visit = open_app()
    page = visit.page
    analyzed(visit, "The capital of France is")
    assert page.locator("#head-labels .cannot", has_text="induction").count() == 1
    page.click('#head-labels [data-pick="induction"]')
    page.click('#label-heads [data-pick="prompt"]')
    page.wait_for_function(f"document.querySelector('#prompt textarea').value === {REPEATS!r}")
    analyzed(visit)
    assert page.locator("#head-labels .cannot", has_text="induction").count() == 0
    visit.clean()


def test_the_predictions_follow_the_token_and_the_sliders(open_app: OpenApp) -> None:
    visit = open_app()
    page = visit.page
    analyzed(visit, "Mary and John went to the store")
    page.click('#position-tokens [data-pick="2"]')
    page.locator("#predictions figcaption", has_text="After token 2, ·and").wait_for()
    assert page.locator("#position input[type=number]").input_value() == "2"
    page.locator("#position input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    page.locator("#predictions figcaption", has_text="After token 3, ·John").wait_for()
    page.wait_for_selector('#position-tokens [data-pick="3"][aria-pressed="true"]')
    page.locator("#top-k input[type=range]").focus()
    page.keyboard.press("End")
    page.wait_for_function(
        "document.querySelectorAll('#predictions .grid tr:first-child th').length == 12"
    )
    visit.clean()


def test_another_beam_shows_its_alternatives(open_app: OpenApp) -> None:
    visit = open_app()
    page = visit.page
    analyzed(visit)
    page.click('#beam-texts [data-pick="1"]')
    page.locator("#beam-alternatives h3", has_text="Alternatives of sequence 2").wait_for()
    written = page.inner_text('#beam-texts [data-pick="1"] b').strip()
    first = page.locator("#beam-alternatives tr:first-child th").nth(1).inner_text()
    assert written.startswith(first.splitlines()[0].removeprefix("·"))
    page.wait_for_selector('#beam-texts [data-pick="1"][aria-pressed="true"]')
    visit.clean()


def test_a_hostile_prompt_stays_text_in_every_panel(open_app: OpenApp) -> None:
    visit = open_app()
    page = visit.page
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    analyzed(visit, HOSTILE)
    page.click('#head-map [data-pick="L0H0"]')
    page.click('#position-tokens [data-pick="3"]')
    visit.settle()
    assert dialogs == []
    assert page.locator("img[src=x]").count() == 0
    assert HOSTILE in page.locator("#beam-texts").inner_text()
    visit.clean()


def test_on_a_phone_nothing_is_wider_than_the_screen(open_app: OpenApp) -> None:
    visit = open_app(width=390, height=844)
    analyzed(visit, "The quick brown fox jumps over the lazy dog. " * 3)
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390
    visit.clean()
