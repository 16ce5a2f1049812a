"""A generated file of the docs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Made:
    """A page or a picture, and where it stands."""

    path: str
    """Below the docs folder, such as `notebooks/01_first_look.md`."""

    content: str | bytes
    """Markdown, HTML or SVG as text, PNG as bytes."""
