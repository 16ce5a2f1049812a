"""Results in words: a title and a table, aligned in a terminal, a table of HTML in a notebook."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from markupsafe import Markup


@dataclass(frozen=True, kw_only=True)
class TextTable:
    """Plain text in rows and columns.

    >>> print(TextTable(title="Two heads", header=["head", "lift"], rows=[["L10H7", "0.9"]]))
    Two heads
      head   lift
      L10H7  0.9
    """

    title: str
    """What the rows are of, in one line."""

    rows: Sequence[Sequence[str]]
    """Cells; a row may be shorter than others."""

    header: Sequence[str] = ()
    """The columns' names, where the cells do not speak for themselves."""

    def __str__(self) -> str:
        rows = [self.header, *self.rows] if self.header else list(self.rows)
        widths = [max(map(len, column)) for column in zip_longest(*rows, fillvalue="")]
        lines = (
            "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=False))
            for row in rows
        )
        return "\n".join([self.title, *(f"  {line.rstrip()}" for line in lines)])

    def html(self) -> Markup:
        """The table as HTML for a notebook, its text escaped."""
        table = html_table(self.header, self.rows)
        return Markup('<p>{}</p><div style="overflow-x:auto">{}</div>').format(self.title, table)


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    """A table of plain text as HTML, escaped."""
    lines = [_row("th", header)] if header else []
    lines += [_row("td", row) for row in rows]
    return Markup("<table>{}</table>").format(Markup().join(lines))


def _row(tag: str, cells: Sequence[str]) -> Markup:
    # An empty cell heads nothing: to who listens to a table, an empty header is a riddle.
    made = [
        Markup('<{0} style="text-align:left">{1}</{0}>').format(tag if cell else "td", cell)
        for cell in cells
    ]
    return Markup("<tr>{}</tr>").format(Markup().join(made))


class TableRepr(ABC):
    """A result that shows itself as a table of words, wherever it is displayed."""

    @abstractmethod
    def text_table(self) -> TextTable:
        """What the result says, in words."""

    def __repr__(self) -> str:
        return str(self.text_table())

    def _repr_html_(self) -> str:
        return self.text_table().html()


def counted(n: int, one: str, many: str | None = None) -> str:
    """So many of something.

    >>> counted(1, "text"), counted(1234, "text"), counted(2, "pass", "passes")
    ('1 text', '1,234 texts', '2 passes')
    """
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def human_count(n: int) -> str:
    """A number of parameters as people write it.

    >>> human_count(84_934_656), human_count(1_500_000_000), human_count(801)
    ('85M', '1.5B', '801')
    """
    if n >= 1_000_000_000:
        return f"{n / 1e9:.3g}B"
    if n >= 1_000_000:
        return f"{n / 1e6:.3g}M" if n < 10_000_000 else f"{n / 1e6:.0f}M"
    return f"{n / 1e3:.0f}K" if n >= 10_000 else str(n)
