"""The web page, served by a process of its own whose network is cut, and opened in Chromium."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    Route,
    expect,
)

CUT = Path(__file__).parent / "network_cut"
"""A folder for PYTHONPATH whose `sitecustomize` refuses, and notes, all but this machine."""

SETTLED = """() => new Promise(settled => {
    const quiet = () => { watcher.disconnect(); settled(); };
    let timer = setTimeout(quiet, 500);
    const watcher = new MutationObserver(() => {
        clearTimeout(timer); timer = setTimeout(quiet, 500);
    });
    setTimeout(quiet, 10_000);
    watcher.observe(document.body, {attributes: true, childList: true, subtree: true});
})"""


@dataclass(frozen=True, kw_only=True, eq=False)
class AppServer:
    """A server that is up."""

    address: str
    """Where the page is."""

    process: subprocess.Popen[str]
    """The process that serves it."""

    calls: Path
    """A file with a line for every address beyond this machine that the server tried."""

    def outside_calls(self) -> list[str]:
        """What it tried to reach, beyond this machine."""
        return self.calls.read_text(encoding="utf-8").splitlines() if self.calls.exists() else []


@contextmanager
def serving(folder: Path, *options: str, hub_cache: Path | None = None) -> Iterator[AppServer]:
    """`mi-toolkit app`, as the user starts it, on a port of its own."""
    calls = folder / "outside_calls.txt"
    paths = [str(CUT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "OUTSIDE_CALLS": str(calls),
        "GRADIO_TEMP_DIR": str(folder / "gradio"),
        "OMP_NUM_THREADS": "1",
        **({} if hub_cache is None else {"HF_HUB_CACHE": str(hub_cache)}),
    }
    log = folder / "server.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "mi_toolkit", "app", "--port", "0", *options],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        line = process.stdout.readline() if process.stdout else ""
        if not line.startswith("The page is at "):
            said = log.read_text(encoding="utf-8")
            raise RuntimeError(f"The page did not start: {line}{said}")
        yield AppServer(address=line.split()[4], process=process, calls=calls)
    finally:
        process.terminate()
        process.wait(timeout=20)
        if process.stdout:
            process.stdout.close()


@dataclass(frozen=True, kw_only=True, eq=False)
class Visit:
    """One visitor's page."""

    page: Page
    """Playwright's page."""

    context: BrowserContext
    """Their browser: a session of its own."""

    errors: list[str] = field(default_factory=list)
    """Uncaught exceptions and console errors."""

    outside: list[str] = field(default_factory=list)
    """Addresses on other hosts that the page asked for. Each was refused."""

    def analyze(self, prompt: str | None = None, *, model: str | None = None) -> None:
        """Fill in the form, press Analyze, and wait until the facts of this run are there."""
        if model is not None:
            self.choose_model(model)
        if prompt is not None:
            self.page.fill("#prompt textarea", prompt)
        self.page.evaluate("document.querySelector('#facts .mi')?.setAttribute('data-old', '')")
        self.page.click("#analyze")
        self.page.wait_for_selector("#facts .mi:not([data-old]) [role=status]", timeout=120_000)

    def choose_model(self, name: str, field: str = "model") -> None:
        """Type a model's name over the one that stands there, as a keyboard user does."""
        box = self.model_box(field)
        box.click()
        self.page.keyboard.type(name)
        self.page.keyboard.press("Enter")
        expect(box).to_have_value(name)
        expect(box).to_have_attribute("aria-expanded", "false")

    def model_box(self, field: str = "model") -> Locator:
        """The field that a model's name is typed into, once it is one."""
        return self.page.locator(f"#{field} [role=combobox]")

    def choose(self, field: str, text: str) -> None:
        """Click the entry of a dropdown that has the text.

        Not typed: gradio narrows the list down some time after the typing, and Enter takes
        whatever it highlights by then.
        """
        self.page.click(f"#{field} input")
        self.page.locator("[role=option]:visible", has_text=text).first.click()
        expect(self.page.locator(f"#{field} input")).to_have_value(re.compile(re.escape(text)))

    @contextmanager
    def counting_bytes(self) -> Iterator[list[int]]:
        """The sizes of what the server sends meanwhile, unpacked."""
        received: list[int] = []
        session = self.context.new_cdp_session(self.page)
        session.send("Network.enable")
        session.on("Network.dataReceived", lambda event: received.append(event["dataLength"]))
        yield received
        session.detach()

    def settle(self) -> None:
        """Wait until nothing in the page has changed for half a second; ten seconds at most."""
        self.page.evaluate(SETTLED)

    def unfold(self, panel: str) -> None:
        """Open a panel, unless it is open."""
        if not self.page.locator(f"#{panel}-run").is_visible():
            self.page.click(f"#{panel} > button")

    def toast(self) -> str:
        """What the newest message says, once there is one."""
        return self.page.locator(".toast-body").last.inner_text(timeout=60_000)

    def clean(self) -> None:
        """Assert that nothing went wrong in the browser, and that nobody else was asked."""
        assert self.errors == [], self.errors
        assert self.outside == [], self.outside


@contextmanager
def visiting(
    browser: Browser,
    address: str,
    *,
    query: str = "?tour=off&example=off",
    width: int = 1280,
    height: int = 800,
    dark: bool = False,
) -> Iterator[Visit]:
    """The page in a browser of its own; `query` leaves a first visit's tour and example out."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
    )
    try:
        visit = Visit(page=context.new_page(), context=context)

        def refuse(route: Route) -> None:
            visit.outside.append(route.request.url)
            route.abort()

        def note_console(message: ConsoleMessage) -> None:
            if message.type == "error":
                visit.errors.append(message.text)

        # A pattern, not a function: what it leaves out goes by without asking this process.
        context.route(re.compile(f"^(?!data:|blob:|{re.escape(address)})"), refuse)
        visit.page.on("console", note_console)
        visit.page.on("pageerror", lambda error: visit.errors.append(str(error)))
        visit.page.goto(address + query)
        visit.page.wait_for_selector("#analyze", timeout=60_000)
        # Our scripts have run: until then a click may come before the page listens.
        visit.page.wait_for_selector("#model [role=combobox]", timeout=60_000)
        yield visit
    finally:
        context.close()
