"""Confirmations and verifications on pages: each figure next to what it is held to."""

from __future__ import annotations

from markupsafe import Markup

from mi_toolkit.draw import figures
from mi_toolkit.draw.markup import render, strip_svg
from mi_toolkit.draw.page import ResultView
from mi_toolkit.draw.primitives import (
    VERDICTS,
    DotStrip,
    made_text,
    span_of,
)
from mi_toolkit.interventions.confirm.confirmation import (
    Confirmation,
    HypothesisTest,
    LayerPart,
    details,
    trial_row,
)
from mi_toolkit.interventions.confirm.losses import Effect
from mi_toolkit.verification.check_input import Verdict
from mi_toolkit.verification.verify import HEADER, Verification

STRIP_WIDTH, STRIP_HEIGHT = 260, 22


OF_A_LAYER = "#555555"


def view_confirmation(confirmation: Confirmation) -> ResultView:
    """A confirmation to look at: in a notebook, as a page, as a picture.

    Example:
        >>> import mi_toolkit as mi
        >>> found = mi.confirm_heads(mi.load_model("toy-gpt2"), {"induction": ["L2H0"]})
        >>> mi.view(found)
        View of Labels of toy-gpt2 under mean ablation
    """
    names = ["label", "ablated", "against other heads", "loss change (nats)", "effect (sd)"]
    names += ["percentile", *(["in its layer"] if confirmation.by == "head" else []), "verdict"]
    made = confirmation.provenance
    return ResultView(
        title=confirmation.title(),
        caption=(
            "How much worse the model predicts without the labelled heads (coloured, with its "
            "95% interval), next to other heads (grey). Strips of one label share a scale; the "
            "line is no change. A label survives where few other sets do as much, over all "
            f"labels tested (false discovery rate {confirmation.alpha:g}). Below a set: its heads "
            "layer by layer, and what the sets that do as much have in common."
        ),
        body=lambda: render(
            "confirmation",
            names=names,
            trials=[_trial(confirmation, trial) for trial in confirmation.trials],
            untested=confirmation.untested,
            facts=made_text(made, f", {confirmation.how} ablation", further=confirmation.facts()),
        ),
        draw=lambda: figures.confirmation_figure(confirmation),
        height=220 + 36 * len(confirmation.cells()),
    )


Row = tuple[HypothesisTest, tuple[str, ...], Markup, list[tuple[tuple[str, ...], Markup]]]


def _trial(found: Confirmation, trial: HypothesisTest) -> Row:
    """A trial, its cells and its strip, and the same of what explains its verdict."""
    parts = [part for other in found[trial.label] for part in _parts(other)]
    span = span_of(strip_of(part) for part in parts)

    def strip(part: Effect | LayerPart, colour: str) -> Markup:
        return strip_svg(strip_of(part, colour), span, width=STRIP_WIDTH, height=STRIP_HEIGHT)

    cells = [tuple(row) for row in details(trial)]
    strips = [strip(part, OF_A_LAYER) for part in _parts(trial)[1:]]
    strips += [Markup()] * (len(cells) - len(strips))
    return (
        trial,
        tuple(trial_row(trial, found.by)),
        strip(trial.effect, VERDICTS[trial.verdict]),
        list(zip(cells, strips, strict=True)),
    )


def _parts(trial: HypothesisTest) -> list[Effect | LayerPart]:
    """The set as a whole, then its heads of each layer."""
    return [trial.effect, *(trial.explanation.layers if trial.explanation else ())]


def strip_of(found: Effect | LayerPart, colour: str = OF_A_LAYER) -> DotStrip:
    """What ablating a set, or its heads of one layer, changes, among other sets."""
    return DotStrip(
        value=found.change,
        low=found.change_low,
        high=found.change_high,
        others=(found.random if isinstance(found, Effect) else found.others).tolist(),
        said=f"change {found.change:.3f} among those of other heads",
        colour=colour,
        radius=2.5,
    )


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
                for row in verification.cells()
            ],
            completions=verification.completions,
            facts="" if made is None else made_text(made),
        ),
        draw=lambda: figures.verification_figure(verification),
        height=360 + 52 * len(verification.outcomes),
    )
