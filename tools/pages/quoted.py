"""Tables and figures that one page quotes from another, so that they are written down once."""

from __future__ import annotations

import re


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
