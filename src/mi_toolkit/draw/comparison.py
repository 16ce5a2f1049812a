"""Comparisons as pages and pictures: of models, of lengths, of stimuli."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mi_toolkit.compare.lengths import LengthSweep
from mi_toolkit.compare.model_comparison import LabelProfile, ModelComparison
from mi_toolkit.compare.stimuli import StimulusComparison
from mi_toolkit.core.display import html_table
from mi_toolkit.core.predictions import Prediction
from mi_toolkit.draw import figures
from mi_toolkit.draw.head_maps import signed
from mi_toolkit.draw.picture import PictureView, wide_table
from mi_toolkit.draw.primitives import LABELS, LINES, bars_html
from mi_toolkit.weights.run_comparison import RunComparison

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MISSING = "\N{EN DASH}"


def view_comparison(comparison: ModelComparison) -> PictureView:
    """Models side by side: labels, their depth, next-token agreement, and what they share."""
    return PictureView(
        title=f"Heads of {', '.join(comparison.models)}",
        caption=(
            f"The same {comparison.n_texts} texts, each model through its own tokenizer. Shares "
            "are of a model's attention heads. Two predictions agree where one is a prefix of the "
            "other; chance pairs the same predictions at random."
        ),
        draw=lambda: figures.comparison_grid(comparison),
        body=models_html(comparison) + _groups(comparison),
    )


def view_sweep(sweep: LengthSweep) -> PictureView:
    """A length sweep: every head's figure by length, and which labels hold where."""
    held = sweep.label_table()
    rows = [
        [str(row[name]) for name in ("stimulus", "label", "head", "lengths")]
        for row in held.to_dict("records")
    ]
    return PictureView(
        title=f"Heads of {sweep.model} by length",
        caption=(
            "Lift is the attention beyond what uniform attention would put on a behaviour's "
            "targets at that length: 0 is chance, 1 is perfect. The dashed line is the bar that "
            "the lower end of a head's interval has to reach for the label."
        ),
        draw=lambda: figures.sweep_grid(sweep),
        body="<h3>Which labels hold at which length</h3>"
        + wide_table(["stimulus", "label", "head", "holds at (tokens)"], rows),
    )


def view_stimuli(comparison: StimulusComparison) -> PictureView:
    """Stimuli against each other: each head on one by the same head on the other."""
    rows = [
        [
            pair.behaviour,
            f"{pair.stimulus}, {pair.other}",
            _number(pair.rank_correlation),
            f"{pair.labelled}, {pair.other_labelled}, {pair.both} on both",
            _number(pair.kappa),
        ]
        for pair in comparison.pairs
    ]
    return PictureView(
        title=f"Heads of {comparison.model} from one stimulus to another",
        caption=(
            "A mark per head: its lift, or value, on one stimulus by the same on the other. Kappa "
            "is the agreement of the labels beyond chance."
        ),
        draw=lambda: figures.stimulus_grid(comparison),
        body=wide_table(["behaviour", "stimuli", "rank correlation", "labelled", "kappa"], rows),
    )


def _number(figure: float) -> str:
    return MISSING if figure != figure else signed(figure)


def models_html(comparison: ModelComparison) -> str:
    """What each model is, a row for each."""
    rows = [
        [
            name,
            facts.family,
            f"{facts.parameters / 1e6:,.3g}M",
            f"{facts.n_layers} × {facts.n_heads}",
            facts.positional,
            comparison.bos[name],
        ]
        for name, facts in comparison.facts.items()
    ]
    header = ["model", "family", "parameters", "layers × heads", "positions", "BOS"]
    return "<h3>The models</h3>" + wide_table(header, rows)


def _groups(comparison: ModelComparison) -> str:
    if not comparison.groups:
        return ""
    rows = [[group.varies, group.shared, ", ".join(group.models)] for group in comparison.groups]
    return "<h3>What can be set against what</h3>" + wide_table(
        ["differ in", "share", "models"], rows
    )


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
        why = comparison.reports[name].not_applicable_reason(shown.label) if labelled else None
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


def view_runs(comparison: RunComparison) -> PictureView:
    """Where in depth the tops of several runs lie, in which components, and what they share.

    Args:
        comparison: one of `compare_runs`.
    """

    def draw() -> Figure:

        return figures.run_comparison_figure(comparison)

    table = comparison.to_pandas()
    header = [name.replace("_", " ") for name in table.columns]
    rows = [[_cell(value) for value in row] for row in table.itertuples(index=False)]
    return PictureView(
        title=f"The top {comparison.k:,} weights by {comparison.metric}",
        caption=(
            "Where in depth they lie, in which kind of matrix, and how much the runs share: by "
            "thirds of depth and kinds of matrix for any two models, weight by weight (in "
            "brackets) where both have the same matrices."
        ),
        draw=draw,
        body=f'<div class="wide">{html_table(header, rows)}</div>',
    )


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if math.isfinite(value) else ""
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
