"""Choosing a model as people do: typed, pasted, walked to, clicked."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import OpenApp

pytestmark = pytest.mark.browser


def test_enter_takes_what_was_typed_or_pasted(open_app: OpenApp) -> None:
    visit = open_app()
    box, keyboard = visit.model_box(), visit.page.keyboard
    for write in (keyboard.type, keyboard.insert_text):
        for written in ("toy-opt", "gpt2", "owner/name", "toy", "TOY-GPT2"):
            box.blur()
            box.click()  # it selects what stands there
            write(written)
            keyboard.press("Enter")
            expect(box).to_have_value(written)
            expect(visit.page.locator("#model-list")).to_be_hidden()
    visit.clean()


def test_a_pasted_id_is_what_is_analyzed_or_an_error_names_it(open_app: OpenApp) -> None:
    visit = open_app()
    visit.analyze()
    visit.model_box().click()
    visit.page.keyboard.insert_text("gpt2")
    visit.page.keyboard.press("Enter")
    visit.page.click("#analyze")
    assert "gpt2 is not on this server" in visit.toast()
    visit.clean()


def test_the_list_narrows_at_once_and_arrows_walk_it(open_app: OpenApp) -> None:
    visit = open_app()
    box, shown = visit.model_box(), visit.page.locator("#model-list [role=option]:visible")
    box.click()
    assert shown.count() > 10  # all of them, whatever stands in the field
    visit.page.keyboard.type("toy-g")
    assert shown.locator("b").all_inner_texts() == ["toy-gpt2", "toy-gpt-neo"]
    expect(visit.page.locator("#model-list [aria-selected=true]")).to_have_count(0)
    visit.page.keyboard.press("ArrowDown")
    visit.page.keyboard.press("ArrowDown")
    chosen = visit.page.locator("#model-list [aria-selected=true]")
    expect(chosen.locator("b")).to_have_text("toy-gpt-neo")
    expect(box).to_have_attribute("aria-activedescendant", str(chosen.get_attribute("id")))
    visit.page.keyboard.press("Enter")
    expect(box).to_have_value("toy-gpt-neo")
    visit.page.keyboard.press("ArrowDown")
    expect(box).to_have_attribute("aria-expanded", "true")
    visit.page.keyboard.press("Escape")
    expect(box).to_have_attribute("aria-expanded", "false")
    expect(box).to_have_value("toy-gpt-neo")
    visit.clean()


def test_an_entry_is_clicked_and_a_button_clears(open_app: OpenApp) -> None:
    visit = open_app()
    box = visit.model_box()
    box.click()
    visit.page.locator("#model-list [role=option]", has_text="toy-opt").click()
    expect(box).to_have_value("toy-opt")
    visit.page.click(".model-list[data-for=model] .clear")
    expect(box).to_have_value("")
    expect(box).to_be_focused()
    visit.page.keyboard.press("Tab")
    visit.page.click("#analyze")
    assert "No model is chosen" in visit.toast()
    visit.analyze(model="toy-opt")
    assert "toy-opt" in visit.page.inner_text("#facts")
    visit.clean()


def test_what_is_here_comes_first_and_sizes_are_said(open_app: OpenApp) -> None:
    visit = open_app()
    visit.model_box().click()
    said = visit.page.locator("#model-list [role=option] small").all_inner_texts()
    is_here = [each.startswith("here, ") for each in said]
    assert is_here == sorted(is_here, reverse=True)
    assert sum(is_here) >= 5
    assert all(each.startswith("a download of up to ") for each in said[sum(is_here) :])
    visit.clean()
