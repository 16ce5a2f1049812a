"""Ablate heads on the analyzed prompt: what the panel runs, shows, writes as code and saves."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from mi_toolkit.app.analysis import TOP_K, Analysis
from mi_toolkit.app.code import opening
from mi_toolkit.app.investigate.experiment import call
from mi_toolkit.app.settings import Settings
from mi_toolkit.app.tools import Saveable
from mi_toolkit.comparison.profile import attending_layers
from mi_toolkit.errors import PromptError
from mi_toolkit.generation import Generation, generate
from mi_toolkit.heads.head import Head
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.interventions.ablation import ablating
from mi_toolkit.interventions.effects import AblationEffect, ablation_effect
from mi_toolkit.prompts.tokens import tokenise
from mi_toolkit.views.ablation import view_ablation
from mi_toolkit.views.ablation_sides import effect_html, texts_html
from mi_toolkit.views.colours import LABELS, OTHER_LABEL

SEED = 0
MOST_RANDOM = 50

HOW = {
    "zero": "zero: the head writes nothing",
    "mean": "mean: its average over other texts, so that only what is special here goes",
    "resample": "resample: what it does on another text of yours",
    "pattern_preserving": "zero, with all later attention kept as it was",
}
"""The kinds of ablation, as a visitor reads them."""

WRITING = ("zero", "mean")
"""The kinds under which a model can write on: the others take from the text that runs."""

FAVOURITES = ("induction", "duplicate_token", "previous_token", "current_token")
"""Labels whose strongest head is a good one to begin with, best first."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Ablated:
    """An ablation on the analyzed prompt."""

    analysis: Analysis
    """What it began with."""

    effect: AblationEffect
    """What it did to one token."""

    reference: str | None
    """The text that `resample` took from."""

    n_random: int
    """Random sets that were asked for."""

    new_tokens: int
    """Tokens that were written; 0 where none can be."""

    beams: tuple[Generation, Generation] | None
    """What beam search writes before and under it; None where one beam was asked for."""


def run_ablation(
    model: HookedModel,
    found: Analysis,
    heads: Sequence[str],
    *,
    target: int,
    how: str,
    n_random: int,
    reference: str,
    settings: Settings,
) -> Ablated:
    """Ablate the heads together, beside random sets of the same size from the same layers.

    Raises:
        PromptError: no head was chosen, or the other text does not do.
        MIToolkitError: as `ablation_effect` does.
    """
    if not heads:
        raise PromptError("Choose one head or more: from the list, or by a label.")
    other = reference if how == "resample" and reference.strip() else None
    if other is not None:
        settings.check_text(other)
        settings.check_prompt(int(tokenise(model, other).lengths[0]))
    room = int(model.cfg.n_ctx) - len(found.pipeline.tokens.ids)
    new_tokens = min(found.max_new_tokens, room) if how in WRITING else 0
    effect = ablation_effect(
        model,
        found.prompt,
        heads,
        target=target,
        how=how,
        reference=other,
        n_random=n_random,
        top_k=TOP_K,
        max_new_tokens=new_tokens,
        seed=SEED,
    )
    beams = None
    if new_tokens and found.num_beams > 1:
        write = partial(
            generate, model, found.prompt, max_new_tokens=new_tokens, num_beams=found.num_beams
        )
        before = write()
        with ablating(model, heads, how):
            beams = before, write()
    return Ablated(
        analysis=found,
        effect=effect,
        reference=other,
        n_random=n_random,
        new_tokens=new_tokens,
        beams=beams,
    )


def head_choices(report: HeadReport) -> list[tuple[str, str]]:
    """Every head with its labels, and its name."""
    n_heads = report.scope.shape[1]
    heads = [Head(layer, each) for layer in attending_layers(report) for each in range(n_heads)]
    return [(" · ".join([str(head), *report.labels_of(head)]), str(head)) for head in heads]


def suggested(report: HeadReport) -> list[str]:
    """A head worth beginning with: one with a label, else the one nearest to one of them."""
    for label in FAVOURITES:
        if label in report.label_names and (heads := report.heads(label)):
            return [str(heads[0])]
    measured = [name for name in FAVOURITES if report.applicable.get(name)]
    return [str(report.strongest(measured[0]))] if measured else []


def with_label(report: HeadReport, chosen: Sequence[str], label: str) -> list[str]:
    """The chosen heads and those of a label, in order; no label takes all away."""
    if not label:
        return []
    wanted = {Head.of(each) for each in chosen} | set(report.heads(label))
    return [str(head) for head in sorted(wanted)]


def labels_html(report: HeadReport) -> str:
    """A button for each label that a head carries here."""
    carried = {name: len(report.heads(name)) for name in report.label_names}
    buttons = "".join(
        f'<button data-pick="{html.escape(name)}" title="{html.escape(report.meaning(name))}">'
        f'<i style="background:{LABELS.get(name, OTHER_LABEL)}"></i>{html.escape(name)} '
        f"<small>{count}</small></button>"
        for name, count in carried.items()
        if count
    )
    said = "Add all heads of:" if buttons else "No head carries a label on this prompt."
    none = '<button data-pick="">take all away</button>'
    return f'<div class="picks"><span>{said}</span>{buttons}{none}</div>'


def ablated_html(done: Ablated) -> str:
    """Original and ablated, side by side."""
    return effect_html(done.effect) + _written(done)


def _written(done: Ablated) -> str:
    free = done.effect.free_text
    if free is None:
        why = "Nothing is written under this kind of ablation: it takes from the text that runs."
        if done.effect.how in WRITING:
            why = "The prompt fills the context: nothing can be written behind it."
        return f"<p>{why}</p>"
    rows = [("greedy", *free.texts)]
    if done.beams is not None:
        pairs = zip(*(each.sequences for each in done.beams), strict=False)
        rows += [
            (f"beam {place}", one.text, other.text)
            for place, (one, other) in enumerate(pairs, start=1)
        ]
    return texts_html(rows)


def ablated_code(done: Ablated) -> str:
    """The same in Python."""
    found, effect = done.analysis, done.effect
    heads = [str(each) for each in effect.components]
    options = {"target": effect.before.token, "how": effect.how}
    if done.reference is not None:
        options["reference"] = done.reference
    asked = call(
        "effect = mi.ablation_effect",
        "model",
        "prompt",
        "heads",
        **options,
        n_random=done.n_random,
        top_k=TOP_K,
        max_new_tokens=done.new_tokens,
        seed=SEED,
    )
    lines = [opening(found.model, found.prompt), f"heads = {heads}", asked, "effect.to_pandas()"]
    if done.beams is not None:
        wanted = f"model, prompt, max_new_tokens={done.new_tokens}, num_beams={found.num_beams}"
        lines += [
            "",
            f"original = mi.generate({wanted})",
            f"with mi.ablating(model, heads, {effect.how!r}):",
            f"    ablated = mi.generate({wanted})",
        ]
    return "\n".join(lines)


def ablated_saveable(done: Ablated) -> Saveable:
    """The ablation in files."""
    found, effect = done.analysis, done.effect
    before, after = effect.before, effect.after
    free = effect.free_text
    return Saveable(
        name="ablation",
        view=view_ablation(effect),
        table=effect.to_pandas,
        about={
            "model": found.model,
            "prompt": found.prompt,
            "heads": [str(each) for each in effect.components],
            "how": effect.how,
            "reference": effect.reference,
            "seed": SEED,
            "target": {"id": before.token, "text": before.text},
            "probability": {"original": before.probability, "ablated": after.probability},
            "rank": {"original": before.rank, "ablated": after.rank},
            "kl": float(effect.kl[-1]),
            "texts": None
            if free is None
            else dict(zip(("original", "ablated"), free.texts, strict=True)),
        },
    )
