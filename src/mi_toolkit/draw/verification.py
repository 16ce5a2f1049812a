"""A verification as part of a page: the table of checks, and what the model says."""

from __future__ import annotations

from mi_toolkit.draw import figures
from mi_toolkit.draw.markup import render
from mi_toolkit.draw.page import ResultView
from mi_toolkit.draw.primitives import VERDICTS, made_text
from mi_toolkit.verification.outcome import Verdict
from mi_toolkit.verification.verify import HEADER, Verification

COLOURS: dict[Verdict, str] = {
    "passed": VERDICTS["survives"],
    "failed": VERDICTS["fails"],
    "not applicable": VERDICTS["undecided"],
}


def view_verification(verification: Verification) -> ResultView:
    """A verification to look at: in a notebook, as a page, as a picture.

    Example:
        >>> import mi_toolkit as mi
        >>> mi.view(mi.verify_model("toy-opt"))
        View of Verification of toy-opt: 12 passed, 2 not applicable
    """
    made = verification.provenance
    return ResultView(
        title=verification.title(),
        caption=(
            "Each figure is held to its limit. A check that is not applicable says why. The "
            "last two say whether what the model writes below makes any sense, which structure "
            "alone does not."
        ),
        body=lambda: render(
            "verification",
            header=HEADER,
            rows=[
                (*row, COLOURS[verification.outcomes[row[0]].verdict])
                for row in verification.rows()
            ],
            completions=verification.completions,
            facts="" if made is None else made_text(made),
        ),
        draw=lambda: figures.verification_figure(verification),
        height=360 + 52 * len(verification.outcomes),
    )
