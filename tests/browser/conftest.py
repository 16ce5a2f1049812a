from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

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
