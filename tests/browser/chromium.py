"""A page opened in headless Chromium with the network off, and what it did there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, ConsoleMessage, Page, Playwright, Route

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def chromium_path() -> str | None:
    """The installed Chromium: Playwright's own download is never used."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenPage:
    """A page that has loaded."""

    page: Page
    """Playwright's page, to click on and to ask."""
    errors: list[str] = field(default_factory=list)
    """Uncaught exceptions and console errors, in every frame."""
    requests: list[str] = field(default_factory=list)
    """Addresses outside the page that it asked for. Each was refused."""

    def text(self) -> str:
        """What a reader sees, in the page and in the frames in it."""
        return "\n".join(frame.inner_text("body") for frame in self.page.frames)

    def count(self, selector: str) -> int:
        """How many elements fit the CSS selector, in all frames together."""
        return sum(frame.locator(selector).count() for frame in self.page.frames)

    def screenshot(self, path: Path) -> bytes:
        """The whole page as a PNG, also written to `path`."""
        return self.page.screenshot(path=path, full_page=True)


def launch(playwright: Playwright, executable: str) -> Browser:
    """A headless Chromium that makes no connection of its own."""
    # Chromium's sandbox refuses to run as root, as containers do; the pages are our own.
    return playwright.chromium.launch(
        executable_path=executable, headless=True, args=FLAGS, chromium_sandbox=False
    )


@contextmanager
def opened(
    browser: Browser, path: Path, *, width: int = 1200, height: int = 900
) -> Iterator[OpenPage]:
    """The HTML file at `path`, loaded; only that file itself may be read."""
    own = path.resolve().as_uri()
    context = browser.new_context(offline=True, viewport={"width": width, "height": height})
    try:
        opened_page = OpenPage(page=context.new_page())

        def refuse_outsiders(route: Route) -> None:
            if route.request.url.partition("#")[0] == own:
                route.continue_()
            else:
                opened_page.requests.append(route.request.url)
                route.abort()

        def note_console(message: ConsoleMessage) -> None:
            if message.type == "error":
                opened_page.errors.append(message.text)

        context.route("**/*", refuse_outsiders)
        opened_page.page.on("console", note_console)
        opened_page.page.on("pageerror", lambda error: opened_page.errors.append(str(error)))
        # Not at "load": what a script asks for then may not have been heard of yet.
        opened_page.page.goto(own, wait_until="networkidle")
        yield opened_page
    finally:
        context.close()
