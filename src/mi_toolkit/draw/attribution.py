"""An attribution as part of a page: the prompt, every token coloured by its score."""

from __future__ import annotations

from markupsafe import Markup

from mi_toolkit.attribution.attribution import Attribution
from mi_toolkit.attribution.methods import METHODS
from mi_toolkit.draw import figures
from mi_toolkit.draw.markup import render
from mi_toolkit.draw.page import ResultView
from mi_toolkit.draw.primitives import (
    DIVERGING,
    SEQUENTIAL,
    ColouredToken,
    made_text,
    shade,
    visible,
)

LONGEST = 40
UNFOLDED = 40
"""Tokens up to which a page shows every score at once."""


def view_attribution(attribution: Attribution) -> ResultView:
    """An attribution to look at: in a notebook, as a page, as a picture.

    Methods side by side: `Page([view_attribution(one), view_attribution(other)])`.

    Example:
        >>> import mi_toolkit as mi
        >>> why = mi.attribute(mi.load_model("toy-gpt2"), "The cat sat on the", " Mary")
        >>> mi.view(why)
        View of What ' Mary' rests on in toy-gpt2, by integrated_gradients
    """
    n_tokens = len(attribution.tokens)
    return ResultView(
        title=f"{attribution.title()}, by {attribution.method}",
        caption=caption(attribution),
        body=lambda: attribution_html(attribution, every_token=n_tokens <= UNFOLDED),
        draw=lambda: figures.sheet_of(figures.attribution_figure(attribution)),
        height=420 + 30 * n_tokens + 2 * sum(map(len, attribution.tokens)),
    )


def attribution_html(found: Attribution, *, every_token: bool = False) -> Markup:
    """The prompt in colours, what is explained, and every token's score, unfolded or folded."""
    largest = float(found.scores.abs().max())
    scores = found.scores.tolist()
    tokens = [
        ColouredToken(
            text=visible(text, longest=LONGEST),
            colour=colour,
            tip=f"{text!r} at {at}: {score:+.4g}",
        )
        for at, (text, score, colour) in enumerate(
            zip(found.tokens, scores, colours_of(found), strict=True)
        )
    ]
    return render(
        "attribution",
        found=found,
        tokens=tokens,
        rows=list(zip(tokens, found.ids.tolist(), scores, strict=True)),
        largest=largest,
        low=f"{-largest:.3g}" if found.is_signed else "0",
        stops=DIVERGING if found.is_signed else SEQUENTIAL,
        is_open=every_token,
        facts=_facts(found),
    )


def caption(found: Attribution) -> str:
    """What a colour means here, and whether the scores add up."""
    meaning = f"Colour is the score of a token: {METHODS[found.method].measures}."
    if found.is_signed:
        meaning += " Purple speaks for the target, orange against it."
    if found.steps is None and found.is_signed:
        return f"{meaning} {found.sum_text()} They need not: this method is no integral."
    return f"{meaning} {found.sum_text()}".strip()


def colours_of(found: Attribution) -> list[str]:
    """The colour of each token: the largest score by size has the end of the scale."""
    largest = float(found.scores.abs().max()) or 1.0
    if found.is_signed:
        return [shade((score / largest + 1) / 2, DIVERGING) for score in found.scores.tolist()]
    return [shade(score / largest, SEQUENTIAL) for score in found.scores.tolist()]


def _facts(found: Attribution) -> str:
    baseline = "" if found.baseline is None else f" Baseline: {found.baseline}."
    return made_text(
        found.provenance,
        further=f"F is the {found.objective} of the target"
        f"{', less that of the other' if len(found.target) == 2 else ''}: {found.value:.4f} here."
        f"{baseline}",
    )
