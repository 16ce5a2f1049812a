"""The five stages and what the model writes, clicked through as a visitor does."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

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
    page.locator("#label-heads h3", has_text="previous token").wait_for()
    listed = page.locator("#label-heads [data-pick]").all_inner_texts()
    lit = page.locator("#head-map button:not(.pale)")
    assert [each.get_attribute("data-pick") for each in lit.all()] == listed
    page.click(f'#label-heads [data-pick="{listed[0]}"]')
    page.locator("#head h3", has_text=listed[0]).wait_for()
    assert "previous token" in page.inner_text("#head .carried")
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


LONG = "Mary and John went to the store. " * 5


@pytest.mark.parametrize(
    "prompt", ["Mary and John went to the store", LONG], ids=["cells", "pixels"]
)
def test_every_pattern_is_read_by_mouse_and_by_keys(open_app: OpenApp, prompt: str) -> None:
    visit = open_app()
    page = visit.page
    analyzed(visit, prompt)
    page.click('#head-map [data-pick="L0H0"]')
    page.locator("#head h3", has_text="L0H0").wait_for()
    read = page.locator("#head .read output")
    page.locator("#head .values > .wide").focus()
    expect(read).to_have_text("<|endoftext|> → <|endoftext|>: 1.0000")
    for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    expect(read).to_have_text(re.compile(r"·and → Mary: 0\.9\d{3}"))
    if prompt == LONG:
        drawn = page.locator("#head .value-grid .pixels")
        assert page.locator("#head .lit-row").evaluate("e => e.style.gridRow") == "4"
        before = drawn.bounding_box()
        assert before is not None
        cell = before["width"] / page.locator("#tokens .chips span").count()
        drawn.hover(position={"x": 1.5 * cell, "y": 2.5 * cell})
        expect(read).to_have_text(re.compile("^·and → Mary"))
        page.click("#head [data-zoom='2']")
        after = drawn.bounding_box()
        assert after is not None
        assert after["width"] == pytest.approx(2 * before["width"], rel=0.01)
    else:
        assert page.locator("#head .pattern .lit").all_inner_texts()[:2] == ["Mary", "·and"]
        page.locator("#head .pattern tr:nth-child(3) td:nth-child(2)").hover()
        expect(read).to_have_text(re.compile("^Mary → <.endoftext.>: 0"))
    visit.clean()


def test_the_map_of_mlps_has_axes_and_values(open_app: OpenApp) -> None:
    visit = open_app()
    page = visit.page
    analyzed(visit, "Mary and John")
    page.click("#mlp > button")
    # What a fold holds is on the page a moment after it is unfolded.
    down = page.locator("#mlp .value-grid .left")
    expect(down).to_have_text([f"layer {layer}" for layer in range(4)], use_inner_text=True)
    assert "Mary" in page.locator("#mlp .value-grid .over").all_inner_texts()
    page.locator("#mlp .values > .wide").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#mlp .read output")).to_have_text(
        re.compile(r"^layer 0 at Mary: \d\.\d{4}$")
    )
    visit.clean()


def test_a_text_that_was_written_is_followed_through_the_model(open_app: OpenApp) -> None:
    visit = open_app()
    page = visit.page
    analyzed(visit, "Mary and John went to")
    page.click('#beam-texts [data-pick="1"]')
    expect(page.locator('#beam-texts [data-pick="1"]')).to_have_attribute("aria-pressed", "true")
    text = page.locator('#beam-texts [data-pick="1"] b').text_content()
    page.click("#follow")
    expect(page.locator("#prompt textarea")).to_have_value(f"Mary and John went to{text}")
    pressed = page.locator('#position-tokens [aria-pressed="true"]')
    expect(page.locator("#tokens .chips span")).to_have_count(6 + 8, timeout=60_000)
    expect(pressed).to_have_attribute("data-pick", "5")  # where it began to write
    visit.clean()


def test_texts_are_drawn_by_chance_on_demand(open_app: OpenApp) -> None:
    visit = open_app()
    page = visit.page
    analyzed(visit, "Mary and John went to")
    searched = page.locator("#beam-texts li").all_inner_texts()
    visit.choose("writing-how", "sampling")
    page.fill("#sampling-seed input[type=number]", "7")
    page.click("#generation-run")
    page.locator("#beam-tree h3", has_text="What was drawn").wait_for(timeout=60_000)
    assert page.locator("#beam-texts li").all_inner_texts() != searched
    page.click("#generation .tools > button")
    code = page.locator("#generation-code .cm-content")
    assert "mi.text.Sampling(temperature=1" in code.inner_text(timeout=10_000)
    visit.clean()
