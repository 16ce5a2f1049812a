"""Pages of the docs, built here and opened with nothing but their own server to ask."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.image import imread
from playwright.sync_api import Browser, Page, Route

from mi_toolkit.draw.report import view_report
from tests.draw.made import made_report

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
PAGES = (
    "index.md",
    "how_to.md",
    "concepts/heads.md",
    "concepts/weights.md",
    "notebooks/01_first_look.md",
)
OPENED = ("", "how_to/", "concepts/heads/", "concepts/weights/", "notebooks/01_first_look/")


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where some of the docs' pages are, with a notebook that was run."""
    site, notebooks = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("notebooks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCS_NOTEBOOKS", str(notebooks))
        patch.setenv("NO_MKDOCS_2_WARNING", "1")
        write_notebook(notebooks / "01_first_look.ipynb")
        build(site)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def build(site: Path) -> None:
    """The chosen pages, in the theme and with the pictures of all."""
    commands = pytest.importorskip("mkdocs.commands.build")
    from mkdocs.config import load_config

    chosen: dict[str, Any] = {
        "site_dir": str(site),
        "strict": False,  # links to pages that are left out
        "nav": None,
        "plugins": ["search"],
        "exclude_docs": "\n".join(("*.md", "atlas/", "data/", *(f"!/{page}" for page in PAGES))),
    }
    config = load_config(str(ROOT / "mkdocs.yml"), **chosen)
    config.plugins.on_startup(command="build", dirty=False)
    try:
        commands.build(config)
    finally:
        config.plugins.on_shutdown()


def write_notebook(path: Path) -> None:
    import nbformat

    shown = view_report(made_report({"induction": torch.rand(2, 2)}))._repr_html_()
    cell = nbformat.v4.new_code_cell(
        "mi.view(report)",
        outputs=[nbformat.v4.new_output("display_data", data={"text/html": shown})],
    )
    question = nbformat.v4.new_markdown_cell("# Which heads look where?")
    nbformat.write(nbformat.v4.new_notebook(cells=[question, cell]), path)


def looked_at(page: Page, address: str, where: str) -> list[str]:
    """What went wrong on a page."""
    wrong: list[str] = []

    def refuse_outsiders(route: Route) -> None:
        if route.request.url.startswith(address):
            route.continue_()
        else:
            wrong.append(f"asked for {route.request.url}")
            route.abort()

    page.context.route("**/*", refuse_outsiders)
    page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("response", lambda r: wrong.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    page.goto(address + where, wait_until="networkidle")
    page.context.unroute("**/*")
    return wrong


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("paper", ["light", "dark"])
def test_pages_of_the_docs_ask_nobody_and_show_their_pictures(
    paper: str, address: str, browser: Browser, tmp_path: Path
) -> None:
    context = browser.new_context(
        color_scheme=paper,  # type: ignore[arg-type]
        viewport={"width": 1280 if paper == "light" else 390, "height": 844},
    )
    try:
        for where in OPENED:
            page = context.new_page()
            assert looked_at(page, address, where) == []
            for picture in page.locator("article img:visible").all():
                picture.scroll_into_view_if_needed()
                assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)")
            # On a phone too nothing but a table or code, in a box of its own, is wider than it.
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            file = tmp_path / f"{where.replace('/', '-')}{paper}.png"
            page.screenshot(path=file)
            drawn = imread(file)[..., :3]
            assert drawn.std() > 0.05
            assert (drawn.mean() > 0.5) == (paper == "light")
            page.close()
    finally:
        context.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_notebook_s_page_holds_its_views_live(address: str, browser: Browser) -> None:
    page = browser.new_page()
    try:
        assert looked_at(page, address, "notebooks/01_first_look/") == []
        page.locator("iframe").scroll_into_view_if_needed()
        page.frame_locator("iframe").locator(".map svg").first.wait_for()
        # Where the frame is out of sight, as on paper, its picture is there.
        frame = "document.querySelector('iframe')"
        page.wait_for_function(f"{frame}.style.background.includes('data:image/svg+xml')")
        document = page.frames[1].evaluate("document.documentElement.offsetHeight")
        page.wait_for_function(f"Math.abs({frame}.offsetHeight - {document}) <= 1")
    finally:
        page.close()
