"""What reaches the page's server at all: requests of its own page, to a name that is its own."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

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
