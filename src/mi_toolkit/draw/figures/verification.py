"""Verifications: the table of checks as a picture, verdicts in colour."""

from __future__ import annotations

from textwrap import shorten

from matplotlib.figure import Figure

from mi_toolkit.draw.figures.style import in_house_style, ink, title
from mi_toolkit.draw.primitives import VERDICTS
from mi_toolkit.verification.verify import HEADER, Verification

WIDTH, TOP, ROW, FOOT = 11.5, 0.65, 0.25, 0.15
COLUMNS = (0.15, 1.9, 2.7, 3.7, 4.85)
"""Left sides of the columns, in inches."""

LONGEST = 110
COLOURS = {"passed": "survives", "failed": "fails", "not applicable": "undecided"}


@in_house_style
def verification_figure(found: Verification) -> Figure:
    """One row to a check; below them what the model says."""
    said = [
        f"{each.prompt!r} → {each.text!r}  (loss {each.loss:.2f}, repetition {each.repetition:.0%})"
        for each in found.completions
    ]
    height = TOP + ROW * (len(found.outcomes) + len(said) + 1.5) + FOOT
    figure = Figure(figsize=(WIDTH, height))
    title(figure, found.title())
    y = TOP
    for cells in (HEADER, *found.rows()):
        for x, cell, name in zip(COLUMNS, cells, HEADER, strict=True):
            is_verdict = name == "verdict" and cells is not HEADER
            _write(
                figure,
                x,
                y,
                cell,
                colour=VERDICTS[COLOURS[cell]] if is_verdict else ink(),
                is_bold=cells is HEADER or is_verdict,
            )
        y += ROW
    y += ROW / 2
    for line in said:
        _write(figure, COLUMNS[0], y, line, colour=ink(), is_bold=False, longest=150)
        y += ROW
    return figure


def _write(
    figure: Figure,
    x: float,
    y: float,
    text: str,
    *,
    colour: str,
    is_bold: bool,
    longest: int = LONGEST,
) -> None:
    figure.text(
        x / figure.get_figwidth(),
        1 - y / figure.get_figheight(),
        shorten(text, longest, placeholder=" …"),
        fontsize=8,
        color=colour,
        weight="bold" if is_bold else "normal",
        parse_math=False,
        va="center",
    )
