"""Critical weights on the page, its header, its tour, and the terms that it explains."""

from __future__ import annotations

import pytest

from tests.browser.app_server import Visit
from tests.browser.conftest import OpenApp

pytestmark = pytest.mark.browser

FACTS = "#weights-top [role=status]"


def score(visit: Visit, n: int = 10) -> None:
    """Score, and wait for a table of `n` rows."""
    visit.page.fill("#weights-k input[type=number]", str(n))
    visit.page.click("#weights-run:not([disabled])")
    visit.page.locator("#weights-top tr").nth(n).wait_for()
    visit.page.locator("#weights-top tr").nth(n + 1).wait_for(state="detached")


def rows(visit: Visit) -> list[list[str]]:
    """Each row of the table, cell by cell."""
    found = visit.page.locator("#weights-top tr:has(td)")
    return [found.nth(place).locator("td").all_inner_texts() for place in range(found.count())]


def probabilities(visit: Visit) -> list[list[str]]:
    """The next tokens with their probabilities: as it is, and changed."""
    bars = visit.page.locator("#weights-effect .bars")
    bars.first.wait_for()
    return [bars.nth(place).locator("td").all_inner_texts() for place in range(2)]


def test_zeroing_a_weight_changes_the_text_and_leaves_the_model_as_it_was(
    open_app: OpenApp,
) -> None:
    visit = open_app()
    visit.analyze()
    score(visit)
    top = rows(visit)
    visit.page.click("#weights-top [data-pick='0']")
    clean, changed = probabilities(visit)
    assert clean != changed
    assert top[0][2] in visit.page.inner_text("#weights-effect h3")
    pressed = visit.page.locator("#weights-top [aria-pressed=true]")
    assert pressed.get_attribute("data-pick") == "0"

    visit.page.click("#weights-top [data-pick=all]")
    visit.page.locator("#weights-effect h3", has_text="and 7 more").wait_for()
    clean_again, far = probabilities(visit)
    assert clean_again == clean
    assert far != changed
    texts = visit.page.locator("#weights-effect .texts td:last-child").all_inner_texts()
    assert texts[0] != texts[1]

    visit.analyze()
    visit.page.locator("#weights-effect .sides").wait_for(state="detached")
    score(visit, 9)
    assert rows(visit) == top[:9]
    visit.page.click("#weights-top [data-pick='0']")
    assert probabilities(visit) == [clean, changed]
    visit.clean()


def test_another_model_takes_the_scores_away_and_says_so(open_app: OpenApp) -> None:
    visit = open_app()
    visit.analyze()
    score(visit)
    visit.analyze(model="toy-opt")
    visit.page.locator(FACTS, has_text="run it again").wait_for()
    assert visit.page.locator("#weights-top table").count() == 0
    visit.clean()


def test_a_term_is_explained_by_keyboard(open_app: OpenApp) -> None:
    visit = open_app()
    term = visit.page.locator("#weights .help .term", has_text="score")
    term.focus()
    visit.page.keyboard.press("Enter")
    meaning = visit.page.locator("#term-score-of-a-weight")
    assert "A prediction" in meaning.inner_text()
    visit.page.keyboard.press("Escape")
    assert not meaning.is_visible()
    assert term.evaluate("button => button === document.activeElement")
    visit.clean()


def test_the_first_tab_goes_past_the_header_and_a_button_to_the_dark(open_app: OpenApp) -> None:
    visit = open_app()
    visit.page.keyboard.press("Tab")
    assert visit.page.evaluate("document.activeElement.hash") == "#generator"
    visit.page.click("#dark")
    assert visit.page.evaluate("document.body.classList.contains('dark')")
    visit.clean()


def test_the_tour_of_a_first_visit_has_six_steps_and_is_not_seen_again(open_app: OpenApp) -> None:
    visit = open_app(query="")
    tour = visit.page.locator("#tour")
    tour.wait_for()
    seen = []
    while tour.count():
        assert visit.page.locator(".toured").count() == 1
        assert visit.page.evaluate("document.activeElement.className") == "next"
        seen.append(tour.locator("h2").inner_text())
        visit.page.keyboard.press("Enter")
    assert len(set(seen)) == 6
    assert visit.page.evaluate("document.activeElement.id") == "tour-button"
    assert visit.page.locator(".toured").count() == 0
    visit.settle()
    visit.page.reload()
    visit.page.wait_for_selector("#analyze")
    visit.settle()
    assert tour.count() == 0
    visit.page.click("#tour-button")
    tour.wait_for()
    visit.clean()


def test_escape_skips_the_tour_and_the_page_works_beside_it(open_app: OpenApp) -> None:
    visit = open_app(query="")
    visit.page.locator("#tour").wait_for()
    visit.page.keyboard.press("Escape")
    assert visit.page.locator("#tour").count() == 0
    visit.page.click("#dark")
    visit.page.click("#tour-button")
    visit.analyze("Mary and John")
    assert visit.page.locator("#tour").count() == 1
    visit.clean()
