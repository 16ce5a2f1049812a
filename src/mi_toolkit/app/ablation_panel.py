"""Ablate heads on the analyzed prompt: what the panel runs, shows, writes as code and saves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr
from markupsafe import Markup

from mi_toolkit.app.context import TOP_K, Analysis, Job, Session
from mi_toolkit.app.panel import Builder, Panel, most_probable, token_dropdown
from mi_toolkit.app.settings import Settings
from mi_toolkit.app.tools import Saveable, call, drawing, opening_code
from mi_toolkit.core.errors import PromptError
from mi_toolkit.core.head import Head
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.tokens import tokenise
from mi_toolkit.draw.ablation import effect_html, texts_html, view_ablation
from mi_toolkit.draw.primitives import LABELS, OTHER_LABEL, in_words
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.interventions.ablation import ablating
from mi_toolkit.interventions.effect import AblationEffect, ablation_effect
from mi_toolkit.text.generate import generate
from mi_toolkit.text.generation import Generation

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
    """Ablate the heads together, next to random sets of the same size from the same layers.

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
    return [
        (" · ".join([str(head), *map(in_words, report.labels_of(head))]), str(head))
        for head in report.all_heads
    ]


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


_LABEL = Markup(
    '<button data-pick="{name}" title="{meaning}"><i style="background:{colour}"></i>{name} '
    "<small>{count}</small></button>"
)


def labels_html(report: HeadReport) -> Markup:
    """A button for each label that a head carries here."""
    carried = {name: len(report.heads(name)) for name in report.label_names}
    buttons = Markup("").join(
        _LABEL.format(
            name=name,
            said=in_words(name),
            meaning=report.meaning(name),
            colour=LABELS.get(name, OTHER_LABEL),
            count=count,
        )
        for name, count in carried.items()
        if count
    )
    said = "Add all heads of:" if buttons else "No head carries a label on this prompt."
    none = Markup('<button data-pick="">take all away</button>')
    return Markup('<div class="picks"><span>{}</span>{}{}</div>').format(said, buttons, none)


def ablated_html(done: Ablated) -> str:
    """Original and ablated, side by side."""
    return effect_html(done.effect) + _written(done)


def _written(done: Ablated) -> str:
    free = done.effect.free_text
    if free is None:
        why = "Nothing is written under this kind of ablation: it takes from the text that runs."
        if done.effect.how in WRITING:
            why = "The prompt fills the context: nothing can be written after it."
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
    opening = opening_code(found.model, found.prompt)
    lines = [opening, f"heads = {heads}", asked, "effect.to_pandas()"]
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


HELP = (
    "Take heads out and see what becomes of the prediction: the {target}'s probability and {rank}, "
    "and the {KL divergence}. Random heads ({random controls|random control}) show what any "
    "{ablation} of this size does."
)
INVITATION = "Choose heads, then Run. The same number of random heads runs next to them."


def _job(
    found: Analysis,
    settings: Settings,
    heads: Sequence[str],
    target: int,
    how: str,
    n_random: float,
    reference: str,
) -> Job[Ablated]:
    return found.job(
        lambda model: run_ablation(
            model,
            found,
            heads,
            target=target,
            how=how,
            n_random=int(n_random),
            reference=reference,
            settings=settings,
        )
    )


def ablate_panel(page: Builder) -> None:
    """Take heads out and see what becomes of the prediction."""
    settings = page.context.settings
    panel = Panel(
        name="ablate",
        title="Ablate heads",
        is_open=True,
        help=HELP,
        invitation=INVITATION,
        job=lambda found, *chosen: _job(found, settings, *chosen),
        drawings=("ablate-shown",),
        shown=lambda done: (ablated_html(done),),
        code=ablated_code,
        saveable=ablated_saveable,
    )
    with page.panel(panel) as built:
        heads = gr.Dropdown(
            [],
            value=[],
            multiselect=True,
            label="Heads to ablate",
            info="L2H0 is head 0 of layer 2. They are ablated together.",
            elem_id="ablate-heads",
        )
        labels = drawing(elem_id="ablate-labels")
        with gr.Row():
            target = token_dropdown("Token to ask about", "ablate-target")
            how = gr.Dropdown(
                [(text, name) for name, text in HOW.items()],
                value="zero",
                label="How",
                info="What stands in the heads' place.",
                elem_id="ablate-how",
                scale=2,
            )
            n_random = gr.Slider(
                0,
                MOST_RANDOM,
                20,
                step=1,
                precision=0,
                label="Random sets",
                info="As many heads of the same layers.",
                elem_id="ablate-random",
            )
        reference = gr.Textbox(
            "",
            label="Another text",
            info="At least as long as the prompt.",
            lines=2,
            visible=False,
            elem_id="ablate-reference",
        )
        built.choices = [heads, target, how, n_random, reference]
    last_model = gr.State("")
    page.when_analysed(_filled, [heads, last_model], [heads, target, labels, last_model])
    page.on(labels, _picked, [heads], heads)
    page.on(how.change, lambda _, kind: gr.update(visible=kind == "resample"), [how], reference)


def _filled(session: Session, chosen: list[str], last_model: str) -> tuple[Any, ...]:
    """What can be chosen now; the heads stay chosen while the model is the same."""
    found = session.analysed()
    choices = head_choices(found.report)
    kept = chosen if found.model == last_model else suggested(found.report)
    return (
        gr.update(choices=choices, value=kept),
        most_probable(found),
        labels_html(found.report),
        found.model,
    )


def _picked(session: Session, label: str, chosen: list[str]) -> list[str]:
    return with_label(session.analysed().report, chosen, label)
