"""Comparisons as pages and pictures: of models, of lengths, of stimuli."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from markupsafe import Markup

from mi_toolkit.compare.agreement import aligned
from mi_toolkit.compare.lengths import LengthSweep
from mi_toolkit.compare.model_comparison import LabelProfile, ModelComparison
from mi_toolkit.compare.models import PromptReading
from mi_toolkit.compare.stimuli import StimulusComparison
from mi_toolkit.core.display import TextTable
from mi_toolkit.core.predictions import Prediction
from mi_toolkit.draw import figures
from mi_toolkit.draw.head_listing import LABEL_LENGTH
from mi_toolkit.draw.head_maps import figure_text
from mi_toolkit.draw.markup import (
    bars_html,
    render,
    strip_svg,
    tables_html,
    value_grid,
    wide_table,
)
from mi_toolkit.draw.page import ResultView
from mi_toolkit.draw.primitives import LABELS, LINES, OTHER_LABEL, DotStrip, signed, visible
from mi_toolkit.models.facts import architecture_rows
from mi_toolkit.sweeps.training import HeadDynamics
from mi_toolkit.weights.run_comparison import RunComparison

MISSING = "\N{EN DASH}"


def view_comparison(comparison: ModelComparison) -> ResultView:
    """Models side by side: labels, their depth, next-token agreement, and what they share."""
    texts = "text" if comparison.n_texts == 1 else f"{comparison.n_texts} texts"
    return ResultView(
        title=f"Heads of {', '.join(comparison.models)}",
        caption=(
            f"The same {texts}, each model through its own tokenizer. Shares are of a "
            "model's attention heads. Two predictions agree where one is a prefix of the "
            "other; chance pairs the same predictions at random."
        ),
        draw=lambda: figures.comparison_grid(comparison),
        body=lambda: models_html(comparison) + _groups(comparison),
    )


def view_sweep(sweep: LengthSweep) -> ResultView:
    """A length sweep: every head's figure by length, and which labels hold where."""
    held = sweep.label_table()
    rows = [
        [str(row[name]) for name in ("stimulus", "label", "head", "lengths")]
        for row in held.to_dict("records")
    ]
    return ResultView(
        title=f"Heads of {sweep.model} by length",
        caption=(
            "Lift is the attention beyond what uniform attention would put on a behaviour's "
            "targets at that length: 0 is chance, 1 is perfect. The dashed line is the bar that "
            "a label says is exceeded: its one-sided p passes Benjamini and Hochberg over all "
            "heads and behaviours, at a false discovery rate of 5%."
        ),
        draw=lambda: figures.sweep_grid(sweep),
        body=lambda: tables_html(
            TextTable(
                title="Which labels hold at which length",
                header=["stimulus", "label", "head", "holds at (tokens)"],
                rows=rows,
            )
            if rows
            else "No head carries a label at any length.",
        ),
    )


def view_dynamics(dynamics: HeadDynamics) -> ResultView:
    """Heads over training: figures by step, when labels came and went, and what ablation said."""
    names = ("label", "head", "state", "onset", "onset_low", "onset_high", "end")
    rows = [
        [MISSING if row[name] is None else str(row[name]) for name in names]
        for row in dynamics.onset_rows()
    ]
    header = ["label", "head", "state", "onset (step)", "after", "by", "gone (step)"]
    handed = [
        [each.label, str(each.loser), str(each.lost), str(each.winner), str(each.won)]
        for each in dynamics.handovers()
    ]
    tried = [
        [f"{each.step}", each.label, " ".join(map(str, each.heads)), each.verdict]
        for each in dynamics.confirmed
    ]
    tables = [
        TextTable(title="When labels came and went", header=header, rows=rows),
        TextTable(
            title="Handovers", header=["label", "from", "lost at", "to", "had from"], rows=handed
        ),
        TextTable(
            title="Put to the test", header=["step", "label", "heads", "verdict"], rows=tried
        ),
    ]
    return ResultView(
        title=dynamics.title(),
        caption=(
            "A line per head: its lift over chance, or value, by training step, with a band over "
            "the 95% interval for heads that carry the label most often. An onset is a change "
            "point among the checkpoints, with its interval (grey): what happened between two "
            "of them nobody saw."
        ),
        draw=lambda: figures.dynamics_figure(dynamics),
        body=lambda: tables_html(*(table for table in tables if table.rows)),
    )


def view_stimuli(comparison: StimulusComparison) -> ResultView:
    """Stimuli against each other: each head on one by the same head on the other."""
    rows = [
        [
            pair.behaviour,
            f"{pair.stimulus}, {pair.other}",
            _number(pair.rank_correlation),
            "too few queries"
            if pair.both is None
            else f"{pair.labelled}, {pair.other_labelled}, {pair.both} on both",
            _number(pair.kappa),
        ]
        for pair in comparison.pairs
    ]
    return ResultView(
        title=f"Heads of {comparison.model} from one stimulus to another",
        caption=(
            "A mark per head: its lift, or value, on one stimulus by the same on the other. Kappa "
            "is the agreement of the labels beyond chance."
        ),
        draw=lambda: figures.stimulus_grid(comparison),
        body=lambda: wide_table(
            ["behaviour", "stimuli", "rank correlation", "labelled", "kappa"], rows
        ),
    )


def _number(figure: float) -> str:
    return MISSING if figure != figure else signed(figure)


def models_html(comparison: ModelComparison) -> Markup:
    """What the models are built of, choice by choice: those that differ are marked, and first."""
    rows = {name: architecture_rows(facts) for name, facts in comparison.facts.items()}
    choices = next(iter(rows.values()))
    table = [(each, [rows[name][each] for name in comparison.models]) for each in choices]
    table.append(("begins with", [comparison.bos[name] for name in comparison.models]))
    differing = [row for row in table if len(set(row[1])) > 1]
    return render(
        "architectures",
        models=comparison.models,
        differing=differing,
        shared=[row for row in table if row not in differing],
    )


def _groups(comparison: ModelComparison) -> Markup:
    if not comparison.groups:
        return Markup()
    rows = [[group.varies, group.shared, ", ".join(group.models)] for group in comparison.groups]
    title = "What can be set against what"
    return tables_html(TextTable(title=title, header=["differ in", "share", "models"], rows=rows))


WIDTH, HEIGHT = 136, 18
PATTERN, PATTERN_CELL = 230, 13
"""Pixels of a pattern among others, and of a value in it."""


def labels_html(comparison: ModelComparison) -> Markup:
    """A row for each label and scope: in every model its heads, their share and their depth."""
    profiles = {
        name: {each.label: each for each in comparison.profiles(name)} for name in comparison.models
    }
    labels = dict.fromkeys(label for each in profiles.values() for label in each)
    rows = [
        (label, [_profile(comparison, name, profiles[name].get(label)) for name in profiles])
        for label in labels
    ]
    return render("labels", models=comparison.models, rows=rows)


def following_html(following: Mapping[str, Sequence[Prediction]]) -> Markup:
    """Each model's most probable next tokens."""
    sides = [
        bars_html(name, predictions, colour=LINES[place % len(LINES)])
        for place, (name, predictions) in enumerate(following.items())
    ]
    return Markup('<div class="sides">{}</div>').format(Markup().join(sides))


def agreement_html(comparison: ModelComparison) -> Markup:
    """How far the predictions of every two models along the text agree, against chance."""
    found, names = comparison.agreement, comparison.models
    rows = []
    for one, other in combinations(range(len(names)), 2):
        n = int(found.positions[one, other])
        share, chance = float(found.share[one, other]), float(found.chance[one, other])
        shown = [f"{share:.0%}", f"{chance:.0%}", str(n)] if n else [MISSING, MISSING, "0"]
        rows.append([f"{names[one]}, {names[other]}", *shown])
    right = ", ".join(f"{name} {comparison.accuracy[name]:.0%}" for name in names)
    return tables_html(
        TextTable(
            title="The same next token along the prompt",
            header=["models", "agree", "by chance", "places compared"],
            rows=rows,
        ),
        f"Right about the prompt's own next tokens: {right}.",
    )


def aligned_html(prompt: str, readings: Mapping[str, PromptReading]) -> Markup:
    """Each model's tokens of a prompt, in columns that end where all models end a token."""
    stretches = aligned(prompt, [each.spans for each in readings.values()])
    rows = [
        (name, [[visible(read.texts[place]) for place in each.tokens[index]] for each in stretches])
        for index, (name, read) in enumerate(readings.items())
    ]
    counts = [len(read.spans) for read in readings.values()]
    return render("aligned", rows=rows, counts=counts)


def shared_labels(readings: Mapping[str, PromptReading]) -> list[str]:
    """The labels that one text can show, those that most models' heads carry first."""
    reports = [each.reading.report for each in readings.values()]
    names = [name for name in reports[0].label_names if all(name in r.label_names for r in reports)]
    names = [name for name in names if any(r.applicable[r.behaviour_of(name)] for r in reports)]
    return sorted(names, key=lambda name: -sum(bool(r.heads(name)) for r in reports))


def class_html(readings: Mapping[str, PromptReading], label: str) -> Markup:
    """For each model the strongest head of one label on the prompt, and its pattern.

    Where no head carries it, the nearest stands there, and it is said. Of a label that asks what a
    head does to what it looks at (`prefix_suppression`), the head that looks there most need not be
    near: none stands there.
    """
    buttons = [(name, LABELS.get(name, OTHER_LABEL)) for name in shared_labels(readings)]
    sides = []
    for name, read in readings.items():
        report, traced = read.reading.report, read.traced
        behaviour = report.behaviour_of(label)
        carriers = report.heads(label)
        if not carriers and label != behaviour:
            sides.append((name, "no head does it beyond doubt", "", ""))
            continue
        head = carriers[0] if carriers else report.strongest(behaviour)
        n = len(carriers)
        said = f"{n} {'head' if n == 1 else 'heads'}" if n else "no head beyond doubt; the nearest"
        figure = figure_text(report, behaviour, head)
        labels = [visible(token, longest=LABEL_LENGTH) for token in traced.tokens.texts]
        pattern = value_grid(
            traced.attention.pattern(head),
            down=labels,
            across=labels,
            said=f"Attention pattern of {head} of {name}",
            cell=max(1, min(PATTERN_CELL, PATTERN // len(labels))),
        )
        sides.append((name, said, f"{head}: {figure}", pattern))
    meaning = next(iter(readings.values())).reading.report.meaning(label)
    return render("classes", labels=buttons, chosen=label, meaning=meaning, sides=sides)


def _profile(comparison: ModelComparison, name: str, shown: LabelProfile | None) -> str:
    if shown is None:
        return MISSING
    if not shown.applicable:
        labelled = shown.label in comparison.reports[name].label_names
        why = comparison.reports[name].not_applicable_reason(shown.label) if labelled else None
        return Markup("<small>{}</small>").format(why or "not applicable here")
    said = Markup("<b>{}</b> ({:.0%})").format(shown.count, shown.share)
    if not shown.count:
        return said
    median = shown.depth_quartiles[1]
    depths = DotStrip(
        value=median,
        others=sorted(set(shown.depths)),
        said=f"depths, median {median:.2f}",
        is_tick=True,
    )
    said += strip_svg(depths, (0.0, 1.0), width=WIDTH, height=HEIGHT)
    if shown.strongest is not None and shown.figure == shown.figure:
        best = Markup("<small>strongest {}, {}</small>")
        said += best.format(str(shown.strongest), signed(shown.figure))
    return said


def view_runs(comparison: RunComparison) -> ResultView:
    """Where in depth the tops of several runs lie, in which components, and what they share.

    Args:
        comparison: one of `compare_runs`.
    """
    table = comparison.text_table()
    return ResultView(
        title=f"The top {comparison.k:,} weights by {comparison.metric}",
        caption=(
            "Where in depth they lie, in which kind of matrix, and how much the runs share: by "
            "thirds of depth and kinds of matrix for any two models, weight by weight (in "
            "brackets) where both have the same matrices."
        ),
        draw=lambda: figures.run_comparison_figure(comparison),
        body=lambda: wide_table(table.header, table.rows),
    )
