"""Who is on the page: work that was begun for somebody who has left is stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable

from mi_toolkit.errors import MIToolkitError


class VisitorLeft(MIToolkitError):
    """The page that asked for this was closed."""


class Visits:
    """Sessions whose page was closed while they were at work."""

    def __init__(self) -> None:
        """Nobody has left yet."""
        self._at_work: dict[str, int] = {}
        self._left: set[str] = set()
        self._guard = threading.Lock()

    def begin(self, session: str) -> Callable[[], None]:
        """Note that work begins for a session; what comes back raises once its page is closed."""
        with self._guard:
            self._at_work[session] = self._at_work.get(session, 0) + 1

        def still_there() -> None:
            if session in self._left:
                raise VisitorLeft("The page that asked for this was closed.")

        return still_there

    def end(self, session: str) -> None:
        """Note that it is done."""
        with self._guard:
            self._at_work[session] -= 1
            if not self._at_work[session]:
                del self._at_work[session]
                self._left.discard(session)

    def leave(self, session: str) -> None:
        """Note that a page was closed: what runs for it ends at its next step."""
        with self._guard:
            if session in self._at_work:
                self._left.add(session)

    @property
    def at_work(self) -> int:
        """Sessions that something runs for."""
        return len(self._at_work)
