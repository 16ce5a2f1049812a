"""What is drawn, in a browser without a network."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from matplotlib.image import imread

from mi_toolkit.draw.page import Page
from mi_toolkit.draw.primitives import VERDICTS
from mi_toolkit.draw.report import view_report
from tests.browser.chromium import OpenPage
from tests.browser.conftest import OpenHTML
from tests.draw.made import made_report, made_view

pytestmark = pytest.mark.browser

HOSTILE = "</script><img src=x onerror=document.title='broken'>"
BLUE_AND_WHITE = """canvas => {
    const { width, height } = canvas;
    const picture = canvas.getContext("2d").getImageData(0, 0, width, height).data;
    let blue = 0, white = 0;
    for (let at = 0; at < picture.length; at += 4) {
        const [red, green, colour] = picture.slice(at, at + 3);
        if (red < 60 && colour > 120) blue += 1;
        if (red > 250 && colour > 250) white += 1;
    }
    return [blue / (width * height), white / (width * height)];
}"""


def open_view(open_html: OpenHTML, view: Any, path: Path) -> OpenPage:
    view.save_html(path)
    return open_html(path)


def quiet(opened: OpenPage) -> bool:
    return opened.errors == [] and opened.requests == []


def test_a_view_draws_its_heads_without_error_or_request(
    tmp_path: Path, open_html: OpenHTML
) -> None:
    opened = open_view(open_html, made_view([" a", " b", " c", " d"]), tmp_path / "view.html")
    opened.page.wait_for_selector(".large canvas")
    assert opened.count(".choices canvas") == 2
    for canvas in opened.page.query_selector_all("canvas"):
        blue, _ = canvas.evaluate(BLUE_AND_WHITE)
        assert blue > 0.1
    assert "looks" in opened.text()
    assert quiet(opened)


def test_a_thumbnail_is_its_pattern_to_the_pixel(tmp_path: Path, open_html: OpenHTML) -> None:
    opened = open_view(open_html, made_view(list("abcd")), tmp_path / "view.html")
    opened.page.wait_for_selector(".choices canvas")
    first, second = opened.page.query_selector_all(".choices canvas")
    # Of 16 cells, the diagonal has all attention, 6 are the future, 6 have none.
    assert first.evaluate(BLUE_AND_WHITE) == [4 / 16, 6 / 16]
    assert second.evaluate(BLUE_AND_WHITE) == [4 / 16, 6 / 16]


def test_a_click_shows_another_head(tmp_path: Path, open_html: OpenHTML) -> None:
    opened = open_view(open_html, made_view(list("abcd"), 3), tmp_path / "view.html")
    opened.page.wait_for_selector(".large canvas")
    assert opened.page.locator(".large:visible h3").inner_text() == "L3H0"
    opened.page.get_by_role("button", name="L3H2").click()
    opened.page.wait_for_selector(".large:visible canvas")
    assert opened.page.locator(".large:visible h3").inner_text() == "L3H2"
    assert opened.page.locator("[aria-pressed=true]").inner_text() == "L3H2"
    assert quiet(opened)


def test_a_hostile_token_and_a_hostile_name_do_not_break_out(
    tmp_path: Path, open_html: OpenHTML
) -> None:
    view = made_view([HOSTILE, "<b>bold</b>", "&amp;", "\u2028"], model=HOSTILE)
    report = view_report(made_report({"induction": torch.rand(2, 2)}, model=HOSTILE))
    page = Page([view, report], title=HOSTILE)
    opened = open_view(open_html, page, tmp_path / "hostile.html")
    opened.page.wait_for_selector(".large canvas")
    assert opened.page.title() == HOSTILE
    assert opened.count("img") == 0
    assert HOSTILE in opened.text()
    assert quiet(opened)


def test_several_views_and_a_report_are_drawn_on_one_page(
    tmp_path: Path, open_html: OpenHTML
) -> None:
    report = view_report(made_report({"induction": torch.rand(3, 4), "locality": torch.rand(3, 4)}))
    views = [report, made_view(list("ab")), made_view(list("abc"), 1)]
    opened = open_view(open_html, Page(views, title="All"), tmp_path / "page.html")
    opened.page.wait_for_selector("#view-1-drawing .large canvas")
    opened.page.wait_for_selector("#view-2-drawing .large canvas")
    assert opened.count(".map svg") == 4
    assert opened.count(".map rect") == 4 * 12
    assert quiet(opened)


def test_a_long_prompt_becomes_a_plain_picture_that_can_be_read(
    tmp_path: Path, open_html: OpenHTML
) -> None:
    view = made_view([f"t{index}" for index in range(200)], 1)
    opened = open_view(open_html, view, tmp_path / "long.html")
    canvas = opened.page.wait_for_selector(".large canvas")
    assert canvas is not None
    box = canvas.bounding_box()
    assert box is not None
    canvas.hover(position={"x": box["width"] / 400, "y": box["height"] / 400})
    assert "t0 (0) looks at t0 (0): 1" in opened.text()
    assert quiet(opened)


@pytest.mark.parametrize("width", [500, 1000])
def test_a_notebook_s_frame_draws_and_takes_the_height_it_needs(
    width: int, tmp_path: Path, open_html: OpenHTML
) -> None:
    report = view_report(made_report({"induction": torch.rand(6, 6)}))
    outputs = "".join(view._repr_html_() for view in (made_view(list("abcd")), report))
    path = tmp_path / "notebook.html"
    path.write_text(
        f"<!doctype html><meta charset=utf-8><body style='width:{width}px'>{outputs}", "utf-8"
    )
    opened = open_html(path)
    frames = opened.page.frames[1:]
    frames[0].wait_for_selector(".large canvas")
    frames[1].wait_for_selector(".map svg")
    for number, frame in enumerate(frames):
        needed = "document.documentElement.offsetHeight"
        opened.page.wait_for_function(
            "([number, needed]) =>"
            " Math.abs(document.querySelectorAll('iframe')[number].clientHeight - needed) <= 2",
            arg=[number, frame.evaluate(needed)],
        )
    assert quiet(opened)


def test_a_frame_out_of_sight_is_in_a_picture_of_the_whole_page(
    tmp_path: Path, open_html: OpenHTML
) -> None:
    far = "<div style='height:3000px'></div>"
    view = str(made_view(list("abcd"))._repr_html_())
    path = tmp_path / "notebook.html"
    path.write_text(f"<!doctype html><meta charset=utf-8><body>{far}{view}", "utf-8")
    opened = open_html(path)
    told = "document.querySelector('iframe').style.background.split('%3Cimg').length"
    opened.page.wait_for_function(f"{told} === 4")  # two buttons and the large pattern
    for _ in range(20):  # what stands in the page is painted a moment later
        picture = imread(BytesIO(opened.screenshot(tmp_path / "whole.png")))[3000:, :, :3]
        red, _, blue = (picture[..., colour] for colour in range(3))
        is_blue = ((red < 0.25) & (blue > 0.5)).mean()  # attention is blue
        if is_blue > 0.005:
            break
        opened.page.wait_for_timeout(100)
    assert is_blue > 0.005
    assert picture.std() > 0.05
    # Neither a script nor an address of the outside is in it.
    background = str(opened.page.evaluate("document.querySelector('iframe').style.background"))
    assert "%3Cscript" not in background
    assert quiet(opened)
    # Printed, legends keep their colours, and paper is light.
    frame = opened.page.frames[1]
    paper = "getComputedStyle(document.body).backgroundColor"
    opened.page.emulate_media(color_scheme="dark")
    assert frame.evaluate(paper) == "rgb(23, 24, 26)"
    opened.page.emulate_media(color_scheme="dark", media="print")
    assert frame.evaluate(paper) == "rgb(255, 255, 255)"
    assert frame.evaluate("getComputedStyle(document.body).printColorAdjust") == "exact"


CONTRAST = """([words, paper]) => {
    const channels = (colour) => {
        const canvas = document.createElement("canvas").getContext("2d");
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const luminance = (colour) => {
        const [red, green, blue] = channels(colour).map((value) => value / 255)
            .map((s) => s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4);
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    };
    const [high, low] = [luminance(words), luminance(paper)].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
}"""


@pytest.mark.parametrize("paper", ["light", "dark"])
def test_words_in_the_colour_of_a_verdict_can_be_read(
    paper: Literal["light", "dark"], tmp_path: Path, open_html: OpenHTML
) -> None:
    made_view(["a", "b"]).save_html(tmp_path / "view.html")
    opened = open_html(tmp_path / "view.html")
    opened.page.emulate_media(color_scheme=paper)
    of = "getComputedStyle({}).{}".format
    back = opened.page.evaluate(of("document.body", "backgroundColor"))
    for colour in VERDICTS.values():
        words = opened.page.evaluate(
            "colour => { const word = document.createElement('b'); word.className = 'verdict';"
            "word.style.setProperty('--verdict', colour); document.body.append(word);"
            f"return {of('word', 'color')} }}",
            colour,
        )
        assert opened.page.evaluate(CONTRAST, [words, back]) > 3.8, (colour, words)


def test_on_paper_nothing_is_cut_off_or_closed(tmp_path: Path, open_html: OpenHTML) -> None:
    report = made_report({"diffuse": torch.full((6, 6), 0.95)})
    opened = open_view(open_html, view_report(report), tmp_path / "report.html")
    behind = "[...document.querySelectorAll('details .head')].map(each => each.checkVisibility())"
    assert set(opened.page.evaluate(behind)) == {False}
    opened.page.emulate_media(media="print")
    assert set(opened.page.evaluate(behind)) == {True}
    wide = "[...document.querySelectorAll('.wide')].map(each => getComputedStyle(each).overflowX)"
    assert set(opened.page.evaluate(wide)) == {"visible"}


def test_what_a_page_cannot_draw_it_says(tmp_path: Path, open_html: OpenHTML) -> None:
    path = tmp_path / "old.html"
    made_view(list("ab")).save_html(path)
    old_browser = "<script>delete window.DecompressionStream</script><body>"
    path.write_text(path.read_text("utf-8").replace("<body>", old_browser, 1), "utf-8")
    opened = open_html(path)
    opened.page.get_by_text("needs a browser of 2023 or later").wait_for()
    assert "DecompressionStream is not defined" in "".join(opened.errors)
