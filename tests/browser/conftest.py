from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.app_server import AppServer, Visit, serving, visiting
from tests.browser.chromium import OpenPage, chromium_path, launch, opened

OpenHTML = Callable[[Path], OpenPage]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    executable = chromium_path()
    if executable is None:
        pytest.skip("no Chromium to open pages with: apt-get install chromium")
    with sync_playwright() as playwright:
        chromium = launch(playwright, executable)
        yield chromium
        chromium.close()


@pytest.fixture
def open_html(browser: Browser) -> Iterator[OpenHTML]:
    """Opens an HTML file with the network off; all pages are closed after the test."""
    with ExitStack() as stack:
        yield lambda path: stack.enter_context(opened(browser, path))


OpenApp = Callable[..., Visit]


@pytest.fixture(scope="session")
def app_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    """The web page, up, with the network of its process cut."""
    with serving(tmp_path_factory.mktemp("app")) as server:
        yield server


@pytest.fixture
def open_app(browser: Browser, app_server: AppServer) -> Iterator[OpenApp]:
    """Opens the page as one visitor more; all leave after the test."""
    with ExitStack() as stack:
        yield lambda **how: stack.enter_context(visiting(browser, app_server.address, **how))
