"""Comparisons as pages and pictures: of models, of lengths, of stimuli."""

from __future__ import annotations

from mi_toolkit.comparison.model_comparison import ModelComparison
from mi_toolkit.comparison.stimuli import StimulusComparison
from mi_toolkit.comparison.sweep import LengthSweep
from mi_toolkit.views.head_maps import signed
from mi_toolkit.views.picture import PictureView, wide_table

MISSING = "\N{EN DASH}"


def view_comparison(comparison: ModelComparison) -> PictureView:
    """Models side by side: labels, their depth, next-token agreement, and what they share."""
    from mi_toolkit.views.figures import comparison_grid

    return PictureView(
        title=f"Heads of {', '.join(comparison.models)}",
        caption=(
            f"The same {comparison.n_texts} texts, each model through its own tokenizer. Shares "
            "are of a model's attention heads. Two predictions agree where one is a prefix of the "
            "other; chance pairs the same predictions at random."
        ),
        draw=lambda: comparison_grid(comparison),
        body=models_html(comparison) + _groups(comparison),
    )


def view_sweep(sweep: LengthSweep) -> PictureView:
    """A length sweep: every head's figure by length, and which labels hold where."""
    from mi_toolkit.views.figures import sweep_grid

    held = sweep.label_table()
    rows = [
        [str(row[name]) for name in ("stimulus", "label", "head", "lengths")]
        for row in held.to_dict("records")
    ]
    return PictureView(
        title=f"Heads of {sweep.model} by length",
        caption=(
            "Lift is the attention beyond what even attention would put on a behaviour's targets "
            "at that length: 0 is chance, 1 is perfect. The dashed line is the bar that the lower "
            "end of a head's interval has to reach for the label."
        ),
        draw=lambda: sweep_grid(sweep),
        body="<h3>Which labels hold at which length</h3>"
        + wide_table(["stimulus", "label", "head", "holds at (tokens)"], rows),
    )


def view_stimuli(comparison: StimulusComparison) -> PictureView:
    """Stimuli against each other: each head on one by the same head on the other."""
    from mi_toolkit.views.figures import stimulus_grid

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
        draw=lambda: stimulus_grid(comparison),
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
