from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.browser.app_server import AppServer, Visit
from tests.browser.conftest import OpenApp

HOSTILE = "</script><img src=x onerror=alert(1)> {{this}} ${alert(2)} `x`"

pytestmark = pytest.mark.browser


# One of each kind of attention: learned positions, windows, rotary positions with grouped queries.
@pytest.mark.parametrize("model", ["toy-gpt2", "toy-gpt-neo", "toy-qwen2"])
def test_the_whole_path(open_app: OpenApp, model: str) -> None:
    visit = open_app()
    page = visit.page
    visit.analyze("Mary went to the store. Mary went to the", model=model)
    page.wait_for_selector("#beam-texts .beams", timeout=60_000)
    assert model in page.inner_text("#facts")
    assert "Mary" in page.locator("#tokens .chips").inner_text()
    for folded in ("embedding", "mlp"):
        page.click(f"#{folded} > button")
    assert page.locator("#embedding td", has_text="Mary").count() >= 1
    assert page.locator("#mlp tr").count() == 5
    assert page.locator("#head-map button").count() == 16
    page.click('#head-map [data-pick="L2H0"]')
    page.locator("#head h3", has_text="L2H0").wait_for()
    assert page.locator("#predictions .grid tr").count() == 6
    assert page.locator("#beam-texts li").count() == 3
    assert page.locator("#beam-tree svg").count() == 1
    for panel in ("ablate", "attribute", "compare"):
        visit.unfold(panel)
        page.click(f"#{panel}-run:enabled")
        page.locator(f"#{panel}-shown table").first.wait_for(timeout=60_000)
    page.click("#weights-run")
    page.locator("#weights-top table").first.wait_for(timeout=120_000)
    visit.clean()


def test_a_hostile_prompt_stays_text(open_app: OpenApp) -> None:
    visit = open_app()
    dialogs: list[str] = []
    visit.page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    visit.analyze(HOSTILE)
    visit.settle()
    assert dialogs == []
    assert visit.page.locator("img[src=x]").count() == 0
    visit.clean()


def test_a_model_that_is_not_here_is_told_with_the_way_out(open_app: OpenApp) -> None:
    visit = open_app()
    for typed, told in (
        ("toy-gtp2", "Did you mean 'toy-gpt2'"),
        ("nobody/no-such-model", "Models that are here: toy-gpt2, toy-gpt-neo"),
        ("/etc", "--allow-local"),
    ):
        visit.choose_model(typed)
        visit.page.click("#analyze")
        visit.page.locator(".toast-body", has_text=told).wait_for()
    visit.clean()


def test_a_prompt_that_is_too_long_is_told_how_long_it_is(open_app: OpenApp) -> None:
    visit = open_app()
    for times, told in (
        (0, "Your prompt is empty"),
        (20, "this page takes 128 at most"),
        (60, "this page takes 128 at most"),
        (400, "letters; this page takes 2,560 at most"),  # nothing is cut silently
    ):
        visit.page.fill("#prompt textarea", "one two three " * times)
        visit.page.click("#analyze")
        visit.page.locator(".toast-body", has_text=told).wait_for()
    visit.analyze("Mary and John")
    expect(visit.page.locator(".toast-body")).to_have_count(0)
    visit.clean()


def test_results_are_marked_while_the_form_says_something_else(open_app: OpenApp) -> None:
    visit = open_app()
    visit.analyze("Mary and John")
    marked = visit.page.locator("body.stale")
    marked.wait_for(state="detached")
    visit.page.fill("#prompt textarea", "Mary and Joan")
    marked.wait_for()
    visit.page.fill("#prompt textarea", "Mary and John")
    marked.wait_for(state="detached")
    visit.choose_model("toy-opt")
    marked.wait_for()
    visit.choose_model("nobody/no-such-model")
    visit.page.click("#analyze")
    visit.page.locator("#facts", has_text="Not analyzed").wait_for()
    visit.clean()


def test_the_server_calls_nobody(open_app: OpenApp, app_server: AppServer) -> None:
    visit = open_app()
    visit.analyze()
    assert app_server.outside_calls() == []


def violations(visit: Visit) -> list[str]:
    """What axe finds: each rule with the elements that break it."""
    return [
        f"{each['id']}: {[node['target'] for node in each['nodes']][:3]}"
        for each in Axe().run(visit.page).response["violations"]
    ]


def test_nobody_is_kept_out(open_app: OpenApp) -> None:
    visit = open_app()
    visit.analyze("one two three four one two three four one two")
    visit.page.locator("#beam-alternatives .grid").wait_for()
    for fold in ("embedding", "mlp"):
        visit.page.click(f"#{fold} > button")
    for panel, shows in (
        ("ablate", "#ablate-shown .sides"),
        ("attribute", "#attribute-shown .heat"),
        ("compare", "#compare-heads .value-grid"),
        ("weights", "#weights-top table"),
    ):
        visit.unfold(panel)
        visit.page.click(f"#{panel}-run:enabled")
        visit.page.locator(shows).first.wait_for(timeout=120_000)
    visit.page.click("#glossary > button")
    visit.settle()  # what is being filled in is faint until it is there
    assert violations(visit) == []
    visit.page.click("#dark")
    expect(visit.page.locator("body")).to_have_class("dark")
    visit.page.wait_for_function("document.getAnimations().length === 0")
    assert violations(visit) == []


def test_nothing_is_wider_than_a_phone(open_app: OpenApp) -> None:
    visit = open_app(width=390, height=844)
    visit.analyze()
    visit.page.locator("#tokens .chips").wait_for()
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390
