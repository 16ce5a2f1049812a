"""An attribution as part of a page: the prompt, every token coloured by its score."""

from __future__ import annotations

import html
import os
from dataclasses import dataclass

from mi_toolkit.attribution.attribution import Attribution
from mi_toolkit.attribution.methods import METHODS
from mi_toolkit.draw import figures
from mi_toolkit.draw.page import Page, Section
from mi_toolkit.draw.primitives import DIVERGING, SEQUENTIAL, ink_on, shade, visible

BAR_WIDTH, BAR_HEIGHT = 200, 12
LONGEST = 40
UNFOLDED = 40
"""Tokens up to which a page shows every score at once."""


@dataclass(frozen=True, eq=False, repr=False)
class AttributionView:
    """An attribution that a notebook draws and a file keeps."""

    attribution: Attribution
    """What is shown."""

    def section(self) -> Section:
        """The view's part of a page."""
        found = self.attribution
        return Section(
            title=f"{found.title()}, by {found.method}",
            caption=caption(found),
            body=attribution_html(found, every_token=len(found.tokens) <= UNFOLDED),
            height=420 + 30 * len(found.tokens) + 2 * sum(map(len, found.tokens)),
        )

    def save_html(self, path: str | os.PathLike[str]) -> None:
        """Write a page of this view alone; `Page` puts several views on one."""
        Page([self]).save_html(path)

    def save_png(self, path: str | os.PathLike[str]) -> None:
        """Write the prompt as one picture: a PNG, or SVG where the name ends in `.svg`."""
        figures.save_figure(figures.sheet_of(figures.attribution_figure(self.attribution)), path)

    def _repr_html_(self) -> str:
        return Page([self])._repr_html_()

    def __repr__(self) -> str:
        return f"AttributionView({self.attribution.title()}, by {self.attribution.method})"


def view_attribution(attribution: Attribution) -> AttributionView:
    """An attribution to look at: in a notebook, as a page, as a picture.

    Methods side by side: `Page([view_attribution(one), view_attribution(other)])`.

    Example:
        >>> import mi_toolkit as mi
        >>> why = mi.attribute(mi.load_model("toy-gpt2"), "The cat sat on the", " Mary")
        >>> mi.view(why)
        AttributionView(What ' Mary' rests on in toy-gpt2, by integrated_gradients)
    """
    return AttributionView(attribution)


def attribution_html(found: Attribution, *, every_token: bool = False) -> str:
    """The prompt in colours, what is explained, and every token's score, unfolded or folded."""
    return (
        f'<p class="heat">{"".join(map(_token, *_columns(found)))}</p>{_legend(found)}'
        f"{_targets(found)}{_table(found, is_open=every_token)}"
        f'<p class="facts">{html.escape(_facts(found))}</p>'
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


def _columns(found: Attribution) -> tuple[range, tuple[str, ...], list[float], list[str]]:
    return range(len(found.tokens)), found.tokens, found.scores.tolist(), colours_of(found)


def _token(place: int, text: str, score: float, colour: str) -> str:
    tip = html.escape(f"{text!r} at {place}: {score:+.4g}")
    shown = html.escape(visible(text, longest=LONGEST))
    return (
        f'<span style="background:{colour};color:{ink_on(colour)}" title="{tip}">{shown}</span>'
        "<wbr>"
    )


def _legend(found: Attribution) -> str:
    largest = float(found.scores.abs().max())
    stops, low = (DIVERGING, f"{-largest:.3g}") if found.is_signed else (SEQUENTIAL, "0")
    return (
        f'<div class="legend"><span>{low}<i class="ramp" '
        f'style="background:linear-gradient(90deg,{",".join(stops)})"></i>{largest:.3g}</span></div>'
    )


def _targets(found: Attribution) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(repr(token.text))}</td><td>{token.token}</td>"
        f"<td>{token.logit:.3f}</td><td>{token.probability:.2%}</td><td>{token.rank:,}</td></tr>"
        for token in found.target
    )
    head = "".join(f"<th>{name}</th>" for name in ("target", "id", "logit", "probability", "rank"))
    return f'<div class="wide"><table><tr>{head}</tr>{rows}</table></div>'


def _table(found: Attribution, *, is_open: bool) -> str:
    largest = float(found.scores.abs().max()) or 1.0
    rows = "".join(
        f"<tr><td>{place}</td><td>{html.escape(visible(text, longest=LONGEST))}</td>"
        f"<td>{token}</td><td>{score:+.4f}</td><td>{_bar(score / largest, colour)}</td></tr>"
        for token, (place, text, score, colour) in zip(
            found.ids.tolist(), zip(*_columns(found), strict=True), strict=True
        )
    )
    head = "".join(f"<th>{name}</th>" for name in ("position", "token", "id", "score", ""))
    return (
        f"<details{' open' if is_open else ''}><summary>Every token</summary>"
        f'<div class="wide"><table><tr>{head}</tr>{rows}</table></div></details>'
    )


def _bar(share: float, colour: str) -> str:
    middle = BAR_WIDTH / 2
    width = abs(share) * middle
    x = middle if share >= 0 else middle - width
    return (
        f'<svg role="img" aria-label="{share:+.0%} of the largest" width="{BAR_WIDTH}" '
        f'height="{BAR_HEIGHT}"><rect x="{x:.1f}" width="{width:.1f}" height="{BAR_HEIGHT}" '
        f'fill="{colour}" stroke="#888" stroke-width="0.5"/></svg>'
    )


def _facts(found: Attribution) -> str:
    made = found.provenance
    versions = ", ".join(f"{name} {version}" for name, version in made.versions.items())
    baseline = "" if found.baseline is None else f" Baseline: {found.baseline}."
    return (
        f"{made.model} in {made.dtype} as {made.backend}. F is the {found.objective} of the target"
        f"{', less that of the other' if len(found.target) == 2 else ''}: {found.value:.4f} here."
        f"{baseline} {versions}."
    )
