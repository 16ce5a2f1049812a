"""Write into the docs what they show of other places: facts of models, figures of benchmarks.

    python tools/fill_pages.py

Between a marker and the next `<!-- end -->` stands what the marker asks for, so that the pages read
the same on the site, on GitHub and in an editor:

| marker | what stands after it |
|---|---|
| `<!-- facts of GPT-2 -->` | the family's models of the registry, a column each |
| `<!-- relatives of GPT-2 -->` | its other models that `load_model` knows by name |
| `<!-- table Cost of benchmarks.md -->` | the first table under that heading of that page |
| `<!-- others classify_heads in Cost of benchmarks.md -->` | the least and the greatest figure of \
that column over the models that are not bundled; `toys` over the bundled ones |
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from pages.families import facts, relatives
from pages.quoted import span, table

DOCS = Path(__file__).parents[1] / "docs"


def main() -> None:
    """Fill every page."""
    for path in DOCS.rglob("*.md"):
        before = path.read_text(encoding="utf-8")
        if (after := filled(before)) != before:
            path.write_text(after, encoding="utf-8")
            print(path.relative_to(DOCS))


def filled(page: str) -> str:
    """A page with what its markers ask for after each of them.

    Raises:
        ValueError: a marker asks for what is not there, or has no end.
    """
    for pattern, made in MARKERS.items():
        page = re.sub(
            rf"(<!-- {pattern} -->)(.*?)(<!-- end -->|\Z)", _filling(made), page, flags=re.S
        )
    return page


def _filling(made: Callable[..., str]) -> Callable[[re.Match[str]], str]:
    def fill(found: re.Match[str]) -> str:
        marker, *asked, _, end = found.groups()
        if not end or "<!--" in found[0].removeprefix(marker).removesuffix(end):
            raise ValueError(f"no <!-- end --> after {marker}")
        text = made(*asked)
        return (
            f"{marker}\n\n{text}\n\n{end}"
            if "\n" in text or text[0] in "|-"
            else f"{marker}{text}{end}"
        )

    return fill


def _table(heading: str, page: str) -> str:
    return table(heading, (DOCS / page).read_text(encoding="utf-8"))


def _span(models: str, column: str, heading: str, page: str) -> str:
    return span(column, _table(heading, page), toys=models == "toys")


MARKERS: dict[str, Callable[..., str]] = {
    r"facts of ([^>]+?)": facts,
    r"relatives of ([^>]+?)": relatives,
    r"table ([^>]+?) of (\S+\.md)": _table,
    r"(toys|others) ([^>]+?) in ([^>]+?) of (\S+\.md)": _span,
}
"""What stands after a marker of that form, which gives what its groups hold."""


if __name__ == "__main__":
    main()
