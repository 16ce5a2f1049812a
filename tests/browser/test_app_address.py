"""The address holds the whole state of the page; a first visit finds an example."""

from __future__ import annotations

from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from playwright.sync_api import Route, expect

from tests.browser.app_server import Visit
from tests.browser.conftest import OpenApp

PROMPT = "one two three four one two three"
OFF = {"tour": "off", "example": "off"}

pytestmark = pytest.mark.browser


def asked(visit: Visit) -> dict[str, str]:
    """What the page's address says now."""
    return {name: value for name, [value] in parse_qs(urlsplit(visit.page.url).query).items()}


def until_address(visit: Visit, **said: str) -> None:
    """Wait until the address says this."""
    visit.page.wait_for_function(
        "wanted => wanted.every(each => location.search.slice(1).split('&').includes(each))",
        arg=[urlencode({name: value}) for name, value in said.items()],
        timeout=60_000,
    )


def expect_shown(visit: Visit, model: str, head: str, position: str) -> None:
    page = visit.page
    expect(page.locator("#facts [role=status]")).to_contain_text(
        f"{model} analyzed", timeout=90_000
    )
    for drawn, pick in (("head-map", head), ("position-tokens", position)):
        pressed = page.locator(f'#{drawn} [aria-pressed="true"]')
        expect(pressed).to_have_attribute("data-pick", pick, timeout=30_000)


def test_a_mailed_link_reload_and_back_give_the_same_page(open_app: OpenApp) -> None:
    visit = open_app()
    page = visit.page
    visit.analyze(PROMPT, model="toy-opt")
    page.click('#head-map [data-pick="L1H2"]')
    until_address(visit, model="toy-opt", head="L1H2", beams="3", tokens="8")
    page.click('#position-tokens [data-pick="4"]')
    page.click("#attribute > button")
    page.click("#dark")
    until_address(visit, position="4", panel="attribute", __theme="dark")
    link = asked(visit)
    assert link == {
        **OFF,
        "model": "toy-opt",
        "prompt": PROMPT,
        "beams": "3",
        "tokens": "8",
        "head": "L1H2",
        "position": "4",
        "panel": "attribute",
        "__theme": "dark",
    }
    visit.clean()
    mailed = open_app(query=f"?{urlencode(link)}")
    for opened in ("mailed", "reloaded"):
        if opened == "reloaded":
            mailed.settle()  # a page that is left while something runs for it says so
            mailed.page.reload()
        expect_shown(mailed, "toy-opt", "L1H2", "4")
        expect(mailed.page.locator("#attribute-run")).to_be_visible()
        expect(mailed.page.locator("body")).to_have_class("dark")
        expect(mailed.page.locator("#layer input")).to_have_value("1")
        assert asked(mailed) == link
    mailed.analyze("Mary and John", model="toy-gpt2")
    until_address(mailed, model="toy-gpt2")
    mailed.settle()
    mailed.page.go_back()
    expect_shown(mailed, "toy-opt", "L1H2", "4")
    assert mailed.page.input_value("#prompt textarea") == PROMPT
    mailed.clean()


def test_an_address_that_asks_for_what_there_is_not_gives_the_page_all_the_same(
    open_app: OpenApp,
) -> None:
    wrong = {"prompt": PROMPT, "beams": "99", "tokens": "x", "head": "L99H0", "position": "1000"}
    visit = open_app(query="?" + urlencode({**OFF, **wrong, "panel": 'x"]'}))
    expect(visit.page.locator("#facts")).to_contain_text("analyzed", timeout=90_000)
    expect(visit.page.locator('#position-tokens [aria-pressed="true"]')).to_have_count(1)
    assert visit.page.input_value("#beams input[type=number]") == "5"
    visit.clean()


def test_a_first_visit_finds_a_finished_example(open_app: OpenApp) -> None:
    visit = open_app(query="?tour=off", width=1400, height=900)
    page = visit.page
    expect(page.locator("#beam-texts li")).to_have_count(3, timeout=30_000)
    expect(page.locator("#facts")).to_contain_text("on an example")
    expect(page.locator("#head-map button").first).to_be_in_viewport()
    assert asked(visit) == {"tour": "off"}
    page.click('#head-map [data-pick="L0H1"]')
    until_address(visit, head="L0H1", model="toy-gpt2")
    visit.analyze()  # and from there on it is like any other
    expect(page.locator("body.stale")).to_have_count(0)
    visit.clean()


def test_enter_analyzes_and_shift_enter_breaks_the_line(open_app: OpenApp) -> None:
    visit = open_app()
    prompt = visit.page.locator("#prompt textarea")
    prompt.fill("one two")
    prompt.press("Shift+Enter")
    assert prompt.input_value() == "one two\n"
    prompt.press_sequentially("three")
    prompt.press("Enter")
    visit.page.locator("#tokens .chips", has_text="\\n").wait_for(timeout=90_000)
    assert prompt.input_value() == "one two\nthree"
    visit.clean()


def test_layers_and_heads_can_be_chosen_as_soon_as_a_model_is(open_app: OpenApp) -> None:
    visit = open_app()
    visit.choose_model("gpt2-medium")  # known, and not here
    visit.page.click("#layer input")
    expect(visit.page.locator("[role=option]:visible")).to_have_count(25)
    visit.page.keyboard.press("Escape")
    visit.choose_model("toy-gpt2")
    visit.choose("layer", "3")
    visit.choose("head-number", "1")
    visit.analyze(PROMPT)
    expect(visit.page.locator('#head-map [aria-pressed="true"]')).to_have_attribute(
        "data-pick", "L3H1", timeout=30_000
    )
    visit.choose("layer", "2")
    visit.page.locator("#head h3", has_text="L2H1").wait_for(timeout=30_000)
    visit.clean()


def test_lists_of_layers_and_heads_stay_shut_until_they_are_the_chosen_model_s(
    open_app: OpenApp,
) -> None:
    visit = open_app()
    visit.choose_model("gpt2-medium")
    visit.page.click("#layer input")
    expect(visit.page.locator("[role=option]:visible")).to_have_count(25)
    visit.page.keyboard.press("Escape")
    held: list[Route] = []
    goes_on = False
    visit.page.route(
        "**/queue/join*", lambda route: route.continue_() if goes_on else held.append(route)
    )
    visit.choose_model("toy-gpt2")
    box = visit.page.locator("#layer input").bounding_box()
    visit.page.mouse.click(box["x"] + 5, box["y"] + 5)  # not `click`, which waits until one can
    expect(visit.page.locator("#layer[inert], #head-number[inert]")).to_have_count(2)
    expect(visit.page.locator("[role=option]:visible")).to_have_count(0)
    assert held
    goes_on = True
    for route in held:
        route.continue_()
    visit.choose("layer", "3")  # and gradio has drawn no entry that is gone
    expect(visit.page.locator("#layer[inert], #head-number[inert]")).to_have_count(0)
    visit.clean()
