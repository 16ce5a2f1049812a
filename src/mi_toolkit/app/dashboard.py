"""The whole page, section by section, and its server: what reaches it at all."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
import threading
from collections.abc import Collection
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
from gradio.exceptions import ComponentProcessingError
from markupsafe import Markup, escape
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mi_toolkit.app.ablation_panel import ablate_panel
from mi_toolkit.app.attribution_panel import attribute_panel
from mi_toolkit.app.card_panel import card_panel
from mi_toolkit.app.comparison_panel import compare_panel
from mi_toolkit.app.context import AppContext, Sessions
from mi_toolkit.app.form import analysing, form_fields, opening
from mi_toolkit.app.generation_section import generation_section
from mi_toolkit.app.glossary import DARK, asset, definitions, glossary_section, style, theme
from mi_toolkit.app.model_pool import ModelPool, VisitorModels
from mi_toolkit.app.panel import Builder
from mi_toolkit.app.pipeline_section import pipeline_section
from mi_toolkit.app.settings import Settings
from mi_toolkit.app.tools import drawing
from mi_toolkit.app.weights_section import weights_section
from mi_toolkit.core.errors import MIToolkitError
from mi_toolkit.core.memory import available_bytes
from mi_toolkit.models.specs import BUNDLED

HEADER = """<header class="top">
<a class="skip" href="#generator">To model and prompt</a>
<div><h1>mi_toolkit</h1>
<p>See what a language model does with your prompt, and what changes when you change the model.</p>
</div>
<nav aria-label="Page"><button type="button" id="dark">Light / dark</button>
<button type="button" id="tour-button">Tour</button></nav>
</header>"""


def header() -> gr.HTML:
    """The first thing on the page. It carries what the terms' buttons open."""
    return drawing(
        Markup(HEADER) + definitions(),
        elem_id="header",
        more_js=f'element.querySelector("#dark").addEventListener("click", {DARK});',
    )


def investigate_section(page: Builder) -> None:
    """Ablate, a head's card, attribute, compare. The last needs a server that offers two models."""
    gr.Markdown("## Investigate\nExperiments on the prompt above. Each runs when you say so.")
    ablate_panel(page)
    card_panel(page)
    attribute_panel(page)
    if len(page.context.settings.offered) > 1:
        compare_panel(page)


SCRIPTS = ("address.js", "model_box.js", "stale.js", "tour.js", "values.js")

FORM_WIDTH = 360
"""Pixels of the form, next to which the results stand."""

CACHE_SECONDS = 3600
"""How long a saved file stays on the server."""

PAGE_BYTES = 2**20
"""More than gradio remembers of one page: what was shown, and the choices in it."""

KEPT = 4
"""The part of the memory for what visitors found: a quarter, and of that a quarter for what gradio
remembers; the rest is for models."""

MOST_WAITING = 100
"""Requests that may wait for a turn; one more is told to come back."""


MISUSED = (
    "The request lacks something that has to be chosen or typed in, or is none of this page's."
)


class Dashboard(gr.Blocks):
    """The page. `launch()` serves it on this machine alone, in its own look, and calls nobody."""

    context: AppContext
    """What its sections work with."""

    def launch(self, *arguments: Any, **options: Any) -> Any:
        """As gradio's own, whose options it takes.

        Raises:
            MIToolkitError: it would be open to strangers, and was not built for them.
        """
        settings = self.context.settings
        host = options.get("server_name") or os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1"
        if not settings.public and (options.get("share") or not is_loopback(host)):
            raise MIToolkitError(
                f"The page would be open to everybody who reaches {host}: build it with "
                "Settings(public=True), which says what strangers may do."
            )
        hosts = [*settings.hosts, socket.gethostname(), os.environ.get("SPACE_HOST", "")]
        guard = Middleware(Guard, hosts=[*filter(None, hosts)], public=settings.public)
        scripts = "".join(map(asset, SCRIPTS))
        ours: dict[str, Any] = {
            "theme": theme(),
            "head": f"<style>{style()}</style><script>{scripts}</script>",
            "footer_links": [],
            "run_history": False,  # else prompts are kept in the browser
            "share": False,
            "ssr_mode": False,
            "enable_monitoring": False,
            "state_session_capacity": self.context.sessions.limit // (KEPT - 1) // PAGE_BYTES + 1,
            "app_kwargs": {"middleware": [guard]},
        }
        # Gradio asks its own server for the page before it goes on, and gives up after three
        # seconds: nothing else may keep Python busy until then.
        blocks = not (options.pop("prevent_thread_lock", False) or _is_interactive())
        served = super().launch(*arguments, **{**ours, **options, "prevent_thread_lock": True})
        threading.Thread(target=self._warm_up, daemon=True).start()
        if blocks:
            self.block_thread()
        return served

    async def preprocess_data(self, *arguments: Any, **options: Any) -> Any:
        """As gradio's own; what no page of ours sends is refused in one sentence.

        Raises:
            gr.Error: values that are missing, of another kind, or out of range.
        """
        try:
            values = await super().preprocess_data(*arguments, **options)
        except (gr.Error, ComponentProcessingError, TypeError, ValueError) as error:
            message = str(error) if isinstance(error, gr.Error) else MISUSED
            raise gr.Error(str(escape(message)), print_exception=False) from error
        if any(each is None or each != each for each in values):  # NaN differs from itself
            raise gr.Error(MISUSED, print_exception=False)
        return values

    def _warm_up(self) -> None:
        """Import what the first visitor would wait for, by loading a small model that is here."""
        bundled = [name for name in self.context.settings.offered if name in BUNDLED]
        for name in bundled[:1]:
            with suppress(MIToolkitError), self.context.pool.acquire(name):
                pass


def _is_interactive() -> bool:
    return bool(getattr(sys, "ps1", sys.flags.interactive))


def _without_figures_of_use(page: gr.Blocks) -> None:
    """Have gradio keep no record of who asked for what, and sum none up.

    After each event it makes a table of the last ten thousand, for a page that is closed here: a
    tenth of a second for every button by the time that a class has pressed some hundreds.
    """
    page._queue.ANALYTICS_MAX_EVENTS = 1
    page._queue.ANAYLTICS_CACHE_FREQUENCY = sys.maxsize


def build(settings: Settings | None = None) -> Dashboard:
    """The page, to `launch()` from a script or in a notebook.

    Example:
        >>> from mi_toolkit.app import Settings, build
        >>> build(Settings(allow_models=("toy-gpt2",))).launch()  # doctest: +SKIP
    """
    settings = settings or Settings()
    models = VisitorModels(settings)
    memory = available_bytes() // 2 if settings.memory is None else settings.memory
    pool = ModelPool(memory - memory // KEPT, load=models.load, size=models.size)
    found = memory // KEPT - memory // KEPT**2
    context = AppContext(settings, pool, Sessions(found))
    page = Dashboard(
        title="mi_toolkit",
        fill_width=True,
        analytics_enabled=False,
        delete_cache=(CACHE_SECONDS, CACHE_SECONDS),
    )
    page.context = context
    page.queue(max_size=MOST_WAITING, default_concurrency_limit=8, api_open=False)
    _without_figures_of_use(page)
    with page:
        builder = Builder(context, page)
        header()
        with gr.Row(elem_id="columns"):
            with gr.Column(scale=0, min_width=FORM_WIDTH, elem_id="generator"):
                form = form_fields(settings)
            with gr.Column(scale=1, min_width=FORM_WIDTH, elem_id="results"):
                pipeline_section(builder, form)
                generation_section(builder, form.prompt)
                investigate_section(builder)
                weights_section(builder)
                glossary_section()
        builder.wire(analysing(builder, form), form.stop, opening(builder, form))

        def left(request: gr.Request) -> None:
            context.sessions.leave(request.session_hash)

        page.unload(left)
    return page


POSTS = ("/queue/join", "/cancel", "/reset")
"""The ends of all paths that the page posts to. Uploads, and gradio's other ways in, are closed."""

MOST_BYTES = 2**20
"""Of a request: the prompt and the choices of a panel."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there.

    >>> [is_loopback(each) for each in ("localhost", "127.0.0.2", "::1", "0.0.0.0", "example.org")]
    [True, True, True, False, False]
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Refuses requests before gradio sees them.

    A page of another host can have its name resolve to this machine (DNS rebinding), and then read
    whatever answers: so the name that a browser asked for has to be one of this server's. A number
    cannot be rebound; on a server for this machine alone it has to be this machine's.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str], public: bool) -> None:
        """Guard `app`, which is reached by the names `hosts`."""
        self._app, self._public = app, public
        self._hosts = {each.casefold() for each in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with the reason why not."""
        refused = self._refused(scope) if scope["type"] in ("http", "websocket") else None
        if refused is None:
            await self._app(scope, receive, send)
        else:
            status, reason = refused
            await PlainTextResponse(reason, status_code=status)(scope, receive, send)

    def _refused(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if scope["type"] == "websocket":
            return 403, "There is nothing here."
        if not self._is_own(host):
            return 403, "This server is not called so."
        if origin is not None and urlsplit(origin).netloc.casefold() != host.casefold():
            return 403, "Only this server's own page may ask that."
        if scope["method"] in ("GET", "HEAD"):
            return None
        if scope["method"] != "POST" or not scope["path"].rstrip("/").endswith(POSTS):
            return 403, "Nothing can be sent here."
        size = headers.get("content-length", "")
        if not size.isdecimal() or int(size) > MOST_BYTES:
            return 413, "That is too much."
        return None

    def _is_own(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").casefold()
        except ValueError:
            return False
        if name in self._hosts or is_loopback(name):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._public
