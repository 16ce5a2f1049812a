from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, expect

from mi_toolkit.app.context import Session
from mi_toolkit.app.dashboard import Dashboard, build
from mi_toolkit.app.settings import Settings
from tests.browser.app_server import visiting

# Gradio's server runs in this process here, and uses what pandas and asyncio will give up.
pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def dashboard() -> Iterator[Dashboard]:
    """The page, served by this process: the test can hold what its visitors wait for."""
    page = build(Settings(allow_models=("toy-gpt2", "toy-opt")))
    page.launch(quiet=True, prevent_thread_lock=True)
    yield page
    page.close()


def until(condition: Callable[[], bool], seconds: float = 30) -> bool:
    """Whether it comes true in time."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def at_work(dashboard: Dashboard) -> list[Session]:
    """The visitors for whom something runs."""
    return [each for each in dashboard.context.sessions.open if each.jobs]


def test_what_a_closed_page_asked_for_is_stopped(browser: Browser, dashboard: Dashboard) -> None:
    with dashboard.context.pool.acquire("toy-gpt2"):
        with visiting(browser, dashboard.local_url) as visit:
            visit.page.click("#analyze")
            assert until(lambda: len(at_work(dashboard)) == 1)
            [session] = at_work(dashboard)
        assert until(lambda: session.jobs == 0)  # while the model is still ours
        assert session.has_left


def test_who_waits_for_a_model_gets_it_and_others_go_on(
    browser: Browser, dashboard: Dashboard
) -> None:
    with (
        visiting(browser, dashboard.local_url) as waiting,
        visiting(browser, dashboard.local_url) as other,
    ):
        with dashboard.context.pool.acquire("toy-gpt2"):
            waiting.page.click("#analyze")
            assert until(lambda: len(at_work(dashboard)) == 1)
            line = waiting.page.get_by_text("2nd in line for toy-gpt2")
            expect(line.first).to_be_visible(timeout=30_000)
            other.choose_model("toy-opt")
            other.analyze()
            assert "toy-opt" in other.page.inner_text("#facts")
            assert waiting.page.locator("#facts [role=status]").count() == 0
        waiting.page.wait_for_selector("#facts [role=status]", timeout=60_000)
        for visit in (waiting, other):
            visit.clean()


def test_stop_takes_a_visitor_out_of_the_line(browser: Browser, dashboard: Dashboard) -> None:
    with visiting(browser, dashboard.local_url) as visit:
        with dashboard.context.pool.acquire("toy-gpt2"):
            visit.page.click("#analyze")
            assert until(lambda: len(at_work(dashboard)) == 1)
            visit.page.click("#stop")
            # Without it the visitor would wait for as long as the model is held here.
            assert until(lambda: not at_work(dashboard))
        visit.analyze()
        visit.clean()


def test_what_is_asked_for_during_a_run_comes_next(browser: Browser, dashboard: Dashboard) -> None:
    with visiting(browser, dashboard.local_url) as visit:
        with dashboard.context.pool.acquire("toy-gpt2"):
            visit.page.click("#analyze")
            assert until(lambda: len(at_work(dashboard)) == 1)
            visit.page.fill("#prompt textarea", "Monday, Tuesday,")
            visit.page.click("#analyze")
        visit.page.locator("#tokens .chips", has_text="Tuesday").wait_for(timeout=60_000)
        visit.clean()
