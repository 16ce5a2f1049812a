"""Tables and figures that one page quotes from another, so that they are written down once."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def quoted(markdown: str) -> str:
    """A page with what it quotes filled in.

    `<!-- table Cost of benchmarks.md -->` is the section's first table, and `<!-- toys
    classify_heads in Cost of benchmarks.md -->` the least and the greatest figure of that column
    over the bundled models; `others` for all but those.
    """
    markdown = re.sub(
        r"<!-- (toys|others) (.+) in (.+) of (\S+\.md) -->",
        lambda found: span(found[2], table(found[3], _read(found[4])), toys=found[1] == "toys"),
        markdown,
    )
    return re.sub(
        r"<!-- table (.+) of (\S+\.md) -->",
        lambda found: table(found[1], _read(found[2])),
        markdown,
    )


def _read(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def span(column: str, rows: str, *, toys: bool) -> str:
    """From the least to the greatest figure of a column of a table.

    Raises:
        ValueError: no such column, or no figure in it.
    """
    header, _, *lines = (
        [cell.strip() for cell in row.split("|")[1:-1]] for row in rows.split("\n")
    )
    if column not in header:
        raise ValueError(f"no column {column!r} in the table of {', '.join(header)}")
    at = header.index(column)
    figures = [line[at] for line in lines if line[0].startswith("toy-") == toys and line[at]]
    if not figures:
        raise ValueError(f"no figure under {column!r}")
    low, high = min(figures, key=float), max(figures, key=float)
    return low if low == high else f"{low} to {high}"


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
