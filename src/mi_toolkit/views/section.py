"""What a view puts on a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, kw_only=True)
class Section:
    """A titled part of a page: HTML, or a drawing by the page's shared script, or both."""

    title: str
    """Plain text."""

    caption: str
    """What is shown and how to read it, as plain text."""

    body: str = ""
    """HTML, without scripts and without ids: a page may hold several of the same kind."""

    properties: str = ""
    """What the shared script draws under the body, as JSON that is safe inside a `<script>`."""

    height: int = 600
    """Pixels that it takes in a notebook, where the host does not let the page say so itself."""


@runtime_checkable
class View(Protocol):
    """Anything that can stand on a page."""

    def section(self) -> Section:
        """The view's part of a page."""
        ...
