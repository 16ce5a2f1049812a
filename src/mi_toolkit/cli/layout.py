"""Plain text in aligned columns, wrapped to a width. Pure: it knows no terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

_GAP = "  "
_NARROWEST = 20
_TIE = "\N{NO-BREAK SPACE}"  # textwrap does not break here


def columns(
    rows: Sequence[Sequence[str]],
    *,
    width: int,
    align: str = "",
    widest: int | None = None,
) -> list[str]:
    """Lines of text, one or more per row: columns as wide as their content, the last one wrapped.

    The last column keeps at least 20 characters, so in a very narrow terminal lines are longer
    than `width`; `align` has a `<` or `>` for each of the others. A cell wider than `widest` does
    not widen its column: the rest of its row begins on the next line.

    >>> for line in columns([["a", "one"], ["bcd", "two three four five six"]], width=26):
    ...     print(line)
    a    one
    bcd  two three four five
         six
    """
    if not rows:
        return []
    *before, _ = zip(*rows, strict=True)
    widths = [
        max((len(cell) for cell in column if widest is None or len(cell) <= widest), default=0)
        for column in before
    ]
    indent = sum(widths) + len(_GAP) * len(widths)
    room = max(width - indent, _NARROWEST)
    sides = align or "<" * len(widths)
    lines = []
    for *cells, last in rows:
        padded = [
            f"{cell:{side}{size}}" for cell, side, size in zip(cells, sides, widths, strict=True)
        ]
        first, *more = wrapped(last, room) or [""]
        start = _GAP.join([*padded, ""])
        if len(start) > indent:
            first, more = "", [first, *more]
        lines.append(start + first)
        lines.extend(" " * indent + line for line in more)
    return [line.replace(_TIE, " ").rstrip() for line in lines]


def wrapped(text: str, width: int) -> list[str]:
    """`text` in lines of at most `width`, words and names kept whole.

    >>> wrapped("a well-kept secret", 12)
    ['a well-kept', 'secret']
    """
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def packed(items: Sequence[str], *, width: int, most_lines: int) -> tuple[str, int]:
    r"""Items side by side, as many as go into `most_lines` lines, and how many did not.

    They are padded to one length and tied together inside, so that as a last column they wrap
    between items only, and stand below each other.

    >>> text, left_out = packed(["L0H1 0.9", "L1H12 0.8", "L3H0 0.7"], width=20, most_lines=1)
    >>> text.replace("\xa0", "_"), left_out
    ('L0H1_0.9_  L1H12_0.8', 1)
    """
    size = max(map(len, items), default=0)
    per_line = max((width + len(_GAP)) // (size + len(_GAP)), 1)
    shown = [f"{item:{size}}".replace(" ", _TIE) for item in items[: per_line * most_lines]]
    return _GAP.join(shown), len(items) - len(shown)
