"""The witness itself must see: what it does not report, a page could do unnoticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser.conftest import OpenHTML

pytestmark = pytest.mark.browser


def page(path: Path, body: str) -> Path:
    path.write_text(f"<!doctype html><meta charset=utf-8><title>page</title><body>{body}", "utf-8")
    return path


def test_a_quiet_page_has_text_and_neither_errors_nor_requests(
    tmp_path: Path, open_html: OpenHTML
) -> None:
    opened = open_html(page(tmp_path / "quiet.html", "<p>bonjour</p><script>var a = 1</script>"))
    assert opened.text() == "bonjour"
    assert opened.errors == []
    assert opened.requests == []
    picture = opened.screenshot(tmp_path / "quiet.png")
    assert picture.startswith(b"\x89PNG")
    assert (tmp_path / "quiet.png").read_bytes() == picture


def test_text_and_elements_inside_a_frame_are_seen(tmp_path: Path, open_html: OpenHTML) -> None:
    frame = """<iframe srcdoc="<svg></svg><p>inside</p>"></iframe>"""
    opened = open_html(page(tmp_path / "frame.html", f"<p>outside</p><svg></svg>{frame}"))
    assert "outside" in opened.text()
    assert "inside" in opened.text()
    assert opened.count("svg") == 2


@pytest.mark.parametrize(
    "body",
    [
        "<script src='https://example.org/a.js'></script>",
        "<img src='http://example.org/a.png'>",
        "<link rel=stylesheet href='https://example.org/a.css'>",
        "<script>fetch('https://example.org/a.json').catch(() => {})</script>",
        """<iframe srcdoc="<img src='https://example.org/a.png'>"></iframe>""",
        "<script src='next to.js'></script>",
    ],
)
def test_whatever_a_page_asks_for_is_refused_and_noted(
    body: str, tmp_path: Path, open_html: OpenHTML
) -> None:
    opened = open_html(page(tmp_path / "asking.html", body))
    assert len(opened.requests) == 1


def test_errors_in_the_page_and_in_its_frames_are_noted(
    tmp_path: Path, open_html: OpenHTML
) -> None:
    body = """
        <script>console.error('from the page')</script>
        <iframe srcdoc="<script>throw new Error('from the frame')</script>"></iframe>
    """
    errors = "\n".join(open_html(page(tmp_path / "failing.html", body)).errors)
    assert "from the page" in errors
    assert "from the frame" in errors
