from __future__ import annotations

import html
import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from mi_toolkit.core.errors import UnknownNameError
from mi_toolkit.draw.figures import save_figure
from mi_toolkit.draw.page import Page
from mi_toolkit.draw.report import view_report
from tests.draw.made import made_report, made_view

HOSTILE = "</script><img src=x onerror=alert(1)>"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("a view asked for the network")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def shown(page: Page | Any) -> str:
    """The document inside the frame that a notebook gets."""
    found = re.search(r'srcdoc="([^"]*)"', page._repr_html_())
    assert found is not None
    return html.unescape(found[1])


@pytest.mark.usefixtures("no_network")
def test_showing_and_saving_ask_for_no_network(tmp_path: Path) -> None:
    views = [made_view(["a", "b"]), view_report(made_report({"induction": torch.rand(2, 2)}))]
    for view in [*views, Page(views)]:
        assert view._repr_html_().startswith("<iframe")
        view.save_html(tmp_path / "page.html")


def test_a_notebook_shows_what_a_file_holds(tmp_path: Path) -> None:
    view = made_view(["a", "b"])
    view.save_html(tmp_path / "page.html")
    assert shown(view) == (tmp_path / "page.html").read_text("utf-8")


def test_several_views_share_one_copy_of_the_script() -> None:
    one = Page([made_view(["a", "b"])]).document()
    several = Page([made_view(["a", "b"])] * 3, title="three").document()
    assert several.count('id="circuitsvis"') == 1
    assert len(several) < len(one) + 5_000
    ids = re.findall(r'\bid="([^"]+)"', several)
    assert len(ids) == len(set(ids))


def test_a_page_of_reports_alone_has_no_script_of_circuitsvis() -> None:
    page = Page([view_report(made_report({"induction": torch.rand(2, 2)}))])
    assert len(page.document()) < 40_000


def test_no_token_and_no_name_breaks_out() -> None:
    view = made_view([HOSTILE, "b"], model=HOSTILE)
    report = view_report(made_report({"induction": torch.rand(2, 2)}, model=HOSTILE))
    document = Page([view, report], title=HOSTILE).document()
    assert "<img" not in document
    assert document.count("</script>") == 3
    written = re.search(r'id="view-0-drawing-properties">(.*?)</script>', document)
    assert written is not None
    assert json.loads(written[1])["tokens"][0].startswith("</script><img")


def test_the_page_may_run_what_it_holds_and_reach_nothing() -> None:
    document = Page([made_view(["a"])]).document()
    assert "default-src 'none'" in document
    assert not re.search(r'(src|href)="', document)


def test_the_heading_is_the_title_or_the_only_view_s() -> None:
    view = made_view(["a"])
    assert "<h1>Attention in made: L3H0, L3H1</h1>" in Page([view]).document()
    assert "<h2>" not in Page([view]).document()
    titled = Page([view], title="Mine & yours").document()
    assert "<h1>Mine &amp; yours</h1>" in titled
    assert "<h2>Attention in made: L3H0, L3H1</h2>" in titled


def test_equal_views_give_equal_pages() -> None:
    assert made_view(["a", "b"])._repr_html_() == made_view(["a", "b"])._repr_html_()


def test_a_picture_is_of_the_format_that_its_name_ends_in_or_is_refused(tmp_path: Path) -> None:
    view = made_view(["a", "b"])
    begins = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    for ending, begin in begins.items():
        path = tmp_path / f"heads.{ending}"
        view.save_png(path)
        assert path.read_bytes().startswith(begin)
    for name in ("heads.eps", "heads.jpg", "heads.foo", "heads"):
        with pytest.raises(UnknownNameError, match=r"let it end in \.png, \.svg or \.pdf"):
            save_figure(view.figure(), tmp_path / name)
    with pytest.raises(UnknownNameError, match=r"let it end in \.svg "):
        view.save_svg(tmp_path / "heads.png")
    assert {path.name for path in tmp_path.iterdir()} == {f"heads.{each}" for each in begins}
