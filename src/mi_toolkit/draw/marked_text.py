"""Texts whose tokens are marked: by what the next token rests on, by how they excite a unit."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from mi_toolkit.activations.names import Name
from mi_toolkit.activations.statistics import ActivationStatistics
from mi_toolkit.attribution.attribute import Attribution
from mi_toolkit.attribution.methods import METHODS
from mi_toolkit.core.errors import UnknownNameError
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


CONTEXT_SIGNS = 200


def view_statistics(
    statistics: ActivationStatistics,
    name: Name | None = None,
    units: Sequence[int] | int | None = None,
) -> ResultView:
    """The top examples of some units, to look at.

    Args:
        statistics: from `activation_statistics`.
        name: which activation; None where there is one alone.
        units: their numbers, counted through where a unit has a head and a dimension; None for
            the eight whose largest value stands out most from their mean, in their deviations.

    Raises:
        UnknownNameError: there is no such activation or unit.

    Example:
        >>> import mi_toolkit as mi
        >>> texts = ["one two three", "When Mary and John went to the store"]
        >>> statistics = mi.activation_statistics(mi.load_model("toy-gpt2"), texts, "mlp_post")
        >>> mi.view(statistics, ("mlp_post", 1), [3, 5])
        View of What excites blocks.1.mlp.hook_post of toy-gpt2
    """
    hook = statistics.one("**" if name is None else name)
    moments = statistics.units[hook].moments
    n_units = moments.mean.numel()
    if units is None:
        outstanding = ((moments.maximum - moments.mean) / moments.std.clamp_min(1e-9)).flatten()
        chosen = outstanding.topk(min(8, n_units)).indices.tolist()
    else:
        chosen = [units] if isinstance(units, int) else list(units)
    for unit in chosen:
        if not 0 <= unit < n_units:
            raise UnknownNameError(f"{hook} has no unit {unit}: they are 0 to {n_units - 1}.")
    units_of = statistics.units[hook]
    return ResultView(
        title=f"What excites {hook} of {statistics.model}",
        caption=(
            "Each row is a text in which the unit has one of its largest values, at the token "
            "in bold; a dot (·) is a space. The extremes say little about the many tokens on "
            "which a unit is half on: its mean and density stand next to its number. "
            f"{units_of.moments.count:,} tokens of {statistics.n_documents:,} "
            f"document{'s' * (statistics.n_documents != 1)}."
        ),
        body=lambda: render("units", units=[_unit(statistics, hook, unit) for unit in chosen]),
        draw=None,
        height=160 + sum(90 + 30 * units_of.top.values.shape[1] for _ in chosen),
    )


Example = tuple[str, str, str, str, str]


def _unit(statistics: ActivationStatistics, hook: str, unit: int) -> tuple[str, str, list[Example]]:
    """Its name, its figures in words, and of each example value, document, text and token."""
    moments = statistics.units[hook].moments
    index = statistics.unit_index(hook, unit)
    figures = (
        f"mean {float(moments.mean[index]):.3g}, standard deviation "
        f"{float(moments.std[index]):.3g}, above 0 on {float(moments.density[index]):.1%} of tokens"
    )
    examples = [
        (
            f"{float(str(example.value)):.3g}",
            str(example.document),
            visible(str(example.before)[-CONTEXT_SIGNS:], longest=CONTEXT_SIGNS),
            visible(str(example.token)),
            visible(str(example.after)[:CONTEXT_SIGNS], longest=CONTEXT_SIGNS),
        )
        for example in statistics.top(hook, index).itertuples()
    ]
    return ".".join(map(str, index)), figures, examples
