"""Every family against an untouched Hugging Face copy, and the page that says so."""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from mi_toolkit.core.errors import MIToolkitError
from tests.families.claims import CLAIMS, Subject, subject_of
from tests.families.zoo import ROWS

# transformers 5.9 compiles parts of GPT-BigCode as it is imported.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")

IS_NEWEST = not version("transformer-lens").startswith("3")
HELD = tuple(CLAIMS) if IS_NEWEST else ("logits", "patterns", "scores", "writes", "ablation")
"""On the older set, what is read off hooks: the rest is held there by tests of its own."""

RIGHT = "yes"
PAGE = "docs/which_models.md"


@cache
def loaded(name: str) -> Subject | MIToolkitError:
    try:
        return subject_of(ROWS[name])
    except MIToolkitError as error:
        return error


@cache
def outcome(name: str, claim: str) -> str:
    """`yes`, or what the refusal says; another figure raises."""
    subject = loaded(name)
    if isinstance(subject, MIToolkitError):
        return str(subject)
    try:
        with torch.no_grad():
            CLAIMS[claim](subject)
    except MIToolkitError as error:
        return str(error)
    return RIGHT


@pytest.mark.parametrize("name", ROWS)
def test_every_figure_is_hugging_faces_or_refused_by_name(name: str) -> None:
    for claim in HELD:
        assert outcome(name, claim)


def table() -> str:
    """The page's table: a row for each family, a column for each claim, refusals below."""
    reasons: dict[str, int] = {}
    lines = [f"| model | {' | '.join(CLAIMS)} |", "|---|" + "---|" * len(CLAIMS)]
    for name in ROWS:
        cells = [outcome(name, claim) for claim in CLAIMS]
        for cell in cells:
            if cell != RIGHT:
                reasons.setdefault(_steady(cell), len(reasons) + 1)
        shown = [cell if cell == RIGHT else f"no ({reasons[_steady(cell)]})" for cell in cells]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    notes = [f"{number}. {reason}" for reason, number in reasons.items()]
    return "\n".join([*lines, "", *notes])


def _steady(reason: str) -> str:
    """A refusal without figures that rounding moves."""
    return re.sub(r"\d+\.\d+(e-?\d+)?", "…", reason.partition(". ")[0].rstrip(".")) + "."


@pytest.mark.skipif(not IS_NEWEST, reason="the page is of the newest releases")
def test_the_page_shows_what_was_found(repository: Path) -> None:
    """`python -m tests.families.test_families` writes it anew."""
    page = (repository / PAGE).read_text()
    assert _between(page) == table()


def _between(page: str) -> str:
    return page.partition("<!-- table -->\n")[2].partition("<!-- end -->")[0].strip()


if __name__ == "__main__":
    before, _, after = Path(PAGE).read_text().partition("<!-- table -->")
    Path(PAGE).write_text(
        f"{before}<!-- table -->\n\n{table()}\n\n<!-- end -->{after.partition('<!-- end -->')[2]}"
    )
