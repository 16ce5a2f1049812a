"""A verification as part of a page: the table of checks, and what the model says."""

from __future__ import annotations

import html
import os
from dataclasses import dataclass

from mi_toolkit.draw import figures
from mi_toolkit.draw.page import Page, Section
from mi_toolkit.draw.primitives import VERDICTS
from mi_toolkit.verification.outcome import Verdict
from mi_toolkit.verification.verify import HEADER, Verification

COLOURS: dict[Verdict, str] = {
    "passed": VERDICTS["survives"],
    "failed": VERDICTS["fails"],
    "not applicable": VERDICTS["undecided"],
}


@dataclass(frozen=True, eq=False, repr=False)
class VerificationView:
    """A verification that a notebook draws and a file keeps."""

    verification: Verification
    """What is shown."""

    def section(self) -> Section:
        """The view's part of a page."""
        found = self.verification
        return Section(
            title=found.title(),
            caption=(
                "Each figure is held to its limit. A check that is not applicable says why. The "
                "last two say whether what the model writes below makes any sense, which structure "
                "alone does not."
            ),
            body=f"{_checks(found)}{_completions(found)}{_facts(found)}",
            height=360 + 52 * len(found.outcomes),
        )

    def save_html(self, path: str | os.PathLike[str]) -> None:
        """Write a page of this view alone; `Page` puts several views on one."""
        Page([self]).save_html(path)

    def save_png(self, path: str | os.PathLike[str]) -> None:
        """Write the table as one picture: a PNG, or SVG where the name ends in `.svg`."""
        figures.save_figure(figures.verification_figure(self.verification), path)

    def _repr_html_(self) -> str:
        return Page([self])._repr_html_()

    def __repr__(self) -> str:
        return f"VerificationView({self.verification.title()})"


def view_verification(verification: Verification) -> VerificationView:
    """A verification to look at: in a notebook, as a page, as a picture.

    Example:
        >>> import mi_toolkit as mi
        >>> mi.view(mi.verify_model("toy-opt"))
        VerificationView(Verification of toy-opt: 12 passed, 2 not applicable)
    """
    return VerificationView(verification)


def _checks(found: Verification) -> str:
    head = "".join(f"<th>{name}</th>" for name in HEADER)
    rows = []
    for name, figure, limit, verdict, sentence in found.cells():
        colour = COLOURS[found.outcomes[name].verdict]
        rows.append(
            f"<tr><th>{html.escape(name)}</th>{_whole(figure)}{_whole(limit)}"
            f'<td style="color:{colour};white-space:nowrap"><b>{verdict}</b></td>'
            f'<td style="white-space:normal">{html.escape(sentence)}</td></tr>'
        )
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _whole(cell: str) -> str:
    return f'<td style="white-space:nowrap">{html.escape(cell)}</td>'


def _completions(found: Verification) -> str:
    if not found.completions:
        return ""
    names = ("prompt", "what follows", "loss (nats)", "prompt's loss", "repetition")
    head = "".join(f"<th>{name}</th>" for name in names)
    rows = "".join(
        f"<tr><td>{html.escape(repr(each.prompt))}</td><td>{html.escape(repr(each.text))}</td>"
        f"<td>{each.loss:.2f}</td><td>{each.prompt_loss:.2f}</td><td>{each.repetition:.0%}</td></tr>"
        for each in found.completions
    )
    return (
        "<h3>What it says, the most probable token each time</h3>"
        f'<div class="wide"><table><tr>{head}</tr>{rows}</table></div>'
    )


def _facts(found: Verification) -> str:
    made = found.provenance
    if made is None:
        return ""
    versions = ", ".join(f"{name} {version}" for name, version in made.versions.items())
    told = f"{made.model} in {made.dtype} as {made.backend}. {versions}."
    return f'<p class="facts">{html.escape(told)}</p>'
