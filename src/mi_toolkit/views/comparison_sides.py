"""Models side by side, as HTML: heads by label, where in depth they lie, and what comes next."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from mi_toolkit.comparison.model_comparison import ModelComparison
from mi_toolkit.comparison.profile import LabelProfile
from mi_toolkit.predictions import Prediction
from mi_toolkit.views.colours import LABELS, LINES
from mi_toolkit.views.head_maps import signed
from mi_toolkit.views.prediction_bars import bars_html

WIDTH, HEIGHT, MARGIN = 130, 18, 5


def labels_html(comparison: ModelComparison) -> str:
    """A row for each label and scope: in every model its heads, their share and their depth."""
    profiles = {
        name: {each.label: each for each in comparison.profiles(name)} for name in comparison.models
    }
    labels = dict.fromkeys(label for each in profiles.values() for label in each)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in comparison.models)
    rows = "".join(
        f"<tr><th>{_swatch(label)}{html.escape(label)}</th>"
        + "".join(
            f"<td>{_profile(comparison, name, profiles[name].get(label))}</td>"
            for name in comparison.models
        )
        + "</tr>"
        for label in labels
    )
    return (
        "<p>How many heads carry each label on this text, and where in depth they lie: left is the "
        "embedding, right the unembedding, the tick their median.</p>"
        f'<div class="wide"><table class="depths"><tr><th></th>{head}</tr>{rows}</table></div>'
    )


def following_html(following: Mapping[str, Sequence[Prediction]]) -> str:
    """Each model's most probable next tokens."""
    sides = "".join(
        bars_html(name, predictions, colour=LINES[place % len(LINES)])
        for place, (name, predictions) in enumerate(following.items())
    )
    return f'<div class="sides">{sides}</div>'


def agreement_text(comparison: ModelComparison, one: int = 0, other: int = 1) -> str:
    """How far two models' predictions along the text agree, against chance, in words."""
    found = comparison.agreement
    names = comparison.models
    positions = int(found.positions[one, other])
    if not positions:
        return "The two never finish a token at the same place, so none can be compared."
    share, chance = float(found.share[one, other]), float(found.chance[one, other])
    return (
        f"Along the prompt the two name the same next token at {share:.0%} of {positions} places "
        f"(by chance {chance:.0%}). {names[one]} is right at "
        f"{comparison.accuracy[names[one]]:.0%} of its own, {names[other]} at "
        f"{comparison.accuracy[names[other]]:.0%}."
    )


def _profile(comparison: ModelComparison, name: str, shown: LabelProfile | None) -> str:
    if shown is None:
        return "\N{EN DASH}"
    if not shown.applicable:
        labelled = shown.label in comparison.reports[name].label_names
        why = comparison.reports[name].hindrance(shown.label) if labelled else None
        return f"<small>{html.escape(why or 'not applicable here')}</small>"
    said = f"<b>{shown.count}</b> ({shown.share:.0%})"
    if not shown.count:
        return said
    best = ""
    if shown.strongest is not None and shown.figure == shown.figure:
        best = f"<small>strongest {shown.strongest}, {signed(shown.figure)}</small>"
    return f"{said}{_depths(shown)}{best}"


def _depths(shown: LabelProfile) -> str:
    def at(depth: float) -> float:
        return MARGIN + depth * (WIDTH - 2 * MARGIN)

    middle = HEIGHT / 2
    dots = "".join(
        f'<circle cx="{at(depth):.1f}" cy="{middle}" r="3"/>' for depth in sorted(set(shown.depths))
    )
    median = shown.depth_quartiles[1]
    said = f"depths, median {median:.2f}"
    return (
        f'<svg role="img" aria-label="{said}" width="{WIDTH}" height="{HEIGHT}">'
        f"<title>{said}</title>"
        f'<path class="axis" d="M{MARGIN} {middle}H{WIDTH - MARGIN}"/>{dots}'
        f'<path class="change" d="M{at(median) - 1:.1f} 1h2v{HEIGHT - 2}h-2z"/></svg>'
    )


def _swatch(label: str) -> str:
    colour = LABELS.get(label)
    return "" if colour is None else f'<i style="background:{colour}"></i>'
