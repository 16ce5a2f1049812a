"""Tables that one page quotes from another, so that figures are written down once."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def quoted(markdown: str) -> str:
    """A page with `<!-- table Cost of benchmarks.md -->` filled in: the section's first table."""
    return re.sub(
        r"<!-- table (.+) of (\S+\.md) -->",
        lambda found: table(found[1], (DOCS / found[2]).read_text(encoding="utf-8")),
        markdown,
    )


def table(heading: str, page: str) -> str:
    """The first table under a heading.

    Raises:
        ValueError: no such heading, or no table under it.
    """
    section = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", page, re.M | re.S)
    rows = section and re.search(r"(?:^\|.*\n?)+", section[1], re.M)
    if not rows:
        raise ValueError(f"no table under a heading {heading!r}")
    return rows[0].strip()
