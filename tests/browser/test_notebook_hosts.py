"""Views where readers meet them: in JupyterLab, and in what nbconvert makes of a notebook."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import torch
from matplotlib.image import imread
from playwright.sync_api import Browser, Page

from mi_toolkit.draw.report import view_report
from tests.browser.conftest import OpenHTML
from tests.draw.made import made_report, made_view

PRIVATE = ("config", "data", "runtime")
"""Folders of Jupyter's that are the test's own."""

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def notebook() -> Any:
    """A notebook with three results as a kernel would have left them."""
    import nbformat

    report = made_report({"induction": torch.rand(4, 4), "locality": torch.rand(4, 4)})
    shown = [report, view_report(report), made_view(["one", " two", " three"], 2)]
    cells = [
        nbformat.v4.new_code_cell(
            f"shown[{index}]",
            execution_count=index + 1,
            outputs=[
                nbformat.v4.new_output(
                    "execute_result",
                    data={"text/html": each._repr_html_(), "text/plain": repr(each)},
                    execution_count=index + 1,
                )
            ],
        )
        for index, each in enumerate(shown)
    ]
    return nbformat.v4.new_notebook(
        cells=cells,
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )


def check_views(page: Page, picture: Path) -> None:
    """Both views are drawn in their frames, and the screenshot is no blank paper."""
    frames = page.locator("iframe[data-mi-toolkit]")
    frames.nth(1).scroll_into_view_if_needed()
    page.frame_locator("iframe[data-mi-toolkit] >> nth=1").locator(".large canvas").wait_for()
    frames.nth(0).scroll_into_view_if_needed()
    page.frame_locator("iframe[data-mi-toolkit] >> nth=0").locator(".map svg").first.wait_for()
    assert frames.count() == 2
    assert "HeadReport of made" in page.inner_text("body")
    page.screenshot(path=picture)
    assert imread(picture)[..., :3].std() > 0.05


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_views_are_drawn_in_what_nbconvert_exports(
    notebook: Any, tmp_path: Path, open_html: OpenHTML
) -> None:
    from nbconvert import HTMLExporter

    # Its template asks servers for MathJax, RequireJS and Mermaid, which our views do without.
    exporter = HTMLExporter(mathjax_url="", require_js_url="", mermaid_js_url="")
    document, _ = exporter.from_notebook_node(notebook)
    (tmp_path / "notebook.html").write_text(document, encoding="utf-8")
    opened = open_html(tmp_path / "notebook.html")
    check_views(opened.page, tmp_path / "nbconvert.png")
    assert not [error for error in opened.errors if "ERR_FAILED" not in error]


@pytest.fixture
def lab(notebook: Any, tmp_path: Path) -> Iterator[str]:
    """The address of a JupyterLab of its own, with the notebook trusted in its root."""
    pytest.importorskip("jupyterlab")
    import nbformat
    from nbformat.sign import NotebookNotary

    folders = {f"JUPYTER_{kind.upper()}_DIR": str(tmp_path / kind) for kind in PRIVATE}
    root = tmp_path / "root"
    root.mkdir()
    nbformat.write(notebook, root / "notebook.ipynb")
    (tmp_path / "data").mkdir()
    NotebookNotary(data_dir=str(tmp_path / "data")).sign(notebook)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.token=",
        "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", f"--ServerApp.root_dir={root}",
        "--LabApp.extension_manager=readonly", "--LabApp.news_url=",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip
    with (tmp_path / "lab.log").open("w") as log:
        server = subprocess.Popen(
            command, env=os.environ | folders, stdout=log, stderr=log, cwd=root
        )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(f"{address}/api", server, tmp_path / "lab.log")
        yield address
    finally:
        server.terminate()
        try:
            server.wait(timeout=30)
        except subprocess.TimeoutExpired:  # it asks its kernels first
            server.kill()
            server.wait()


def wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(300):
        assert server.poll() is None, log.read_text()
        try:
            with urlopen(address):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


def test_views_are_drawn_in_jupyterlab(lab: str, browser: Browser, tmp_path: Path) -> None:
    context = browser.new_context(viewport={"width": 1400, "height": 1400})
    refused: list[str] = []
    errors: list[str] = []
    try:
        page = context.new_page()
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        context.route(
            re.compile(rf"^https?://(?!{re.escape(lab.removeprefix('http://'))})"),
            lambda route: (refused.append(route.request.url), route.abort()),
        )
        page.goto(f"{lab}/lab/tree/notebook.ipynb")
        page.locator("iframe[data-mi-toolkit]").first.wait_for(timeout=90_000)
        check_views(page, tmp_path / "lab.png")
        assert not refused
        assert not errors
    finally:
        context.close()
