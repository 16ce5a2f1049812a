"""A head's card: what the panel runs, shows, writes as code and saves.

It is made in steps, the quick ones first: what is moved in texts, once for all heads of a model;
then part by part of `cards.card.PARTS`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
from markupsafe import Markup

from mi_toolkit.app.ablation_panel import head_choices, suggested
from mi_toolkit.app.context import Analysis, Job, Session
from mi_toolkit.app.panel import CLICK, RELISTED, Builder, Panel, note
from mi_toolkit.app.pipeline_section import head_of
from mi_toolkit.app.tools import Saveable, call, drawing, traced_code
from mi_toolkit.cards.card import PARTS, HeadCard, head_card
from mi_toolkit.cards.profile import HeadProfiles, profile_heads
from mi_toolkit.core.errors import PromptError
from mi_toolkit.core.head import Head
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.stimuli import passages
from mi_toolkit.draw.cards import card_html, view_card
from mi_toolkit.draw.head_listing import head_buttons
from mi_toolkit.draw.head_maps import label_map

TEXTS, TEXT_TOKENS = 24, 96
"""Bundled passages that heads are watched on, and tokens of each."""

OPTIONS: dict[str, Any] = {
    "how": ("zero", "mean"),
    "n_sequences": 6,
    "n_random": 8,
    "n_tokens": 256,
}
"""How a card is made here, where somebody waits for it."""

SAID = {
    "examples": "when it acts",
    "circuits": "what it reads and writes",
    "links": "who it works with",
    "losses": "what hangs on it",
}
"""The parts in words."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Carded:
    """A head's card, as far as it is made."""

    analysis: Analysis
    """What it began with."""

    profiles: HeadProfiles
    """What every head of the model moves in texts."""

    card: HeadCard | None
    """The card; None where the prompt is another one since."""


def begin_card(model: HookedModel, found: Analysis, head: str, before: Carded | None) -> Carded:
    """Where a head looks, from a pass over texts that serves all heads of a model.

    Args:
        model: the analyzed model.
        found: what stands on the page.
        head: the head.
        before: the last card; its pass over the texts is taken over where it is of this model.

    Raises:
        PromptError: no head was chosen.
        MIToolkitError: as `profile_heads` and `head_card` do.
    """
    if not head:
        raise PromptError("Choose a head: on the map, or from the list.")
    if before is not None and before.analysis.model == found.model:
        profiles = before.profiles
    else:
        profiles = profile_heads(
            model, passages()[:TEXTS], top_k=8, max_length=TEXT_TOKENS, overlong="truncate"
        )
    card = head_card(model, head, profiles=profiles, report=found.report, parts=(), **OPTIONS)
    return Carded(analysis=found, profiles=profiles, card=card)


def with_next_part(model: HookedModel, done: Carded) -> Carded:
    """The card with the first part that it lacks."""
    card = done.card
    missing = [] if card is None else [part for part in PARTS if part not in card.parts]
    if card is None or not missing:
        return done
    grown = head_card(
        model, card.head, profiles=done.profiles, onto=card, parts=missing[:1], **OPTIONS
    )
    return replace(done, card=grown)


def still(found: Analysis, done: Carded) -> Carded | None:
    """What holds under a new analysis: of the same model, the pass over the texts."""
    if found is done.analysis:
        return done
    return replace(done, analysis=found, card=None) if found.model == done.analysis.model else None


def shown(done: Carded) -> tuple[Markup, Markup]:
    """The card, as far as it is made, and what is still to come."""
    card = done.card
    if card is None:
        return note(INVITATION), Markup()
    missing = [SAID[part] for part in PARTS if part not in card.parts]
    to_come = note(f"Still to come: {', '.join(missing)}.") if missing else Markup()
    return Markup("<h3>{}</h3>{}").format(card.title(), card_html(card)), to_come


def card_code(done: Carded) -> str:
    """The same in Python."""
    if done.card is None:
        return ""
    profiled = call(
        "profiles = mi.cards.profile_heads",
        "model",
        f"passages()[:{TEXTS}]",
        top_k=8,
        max_length=TEXT_TOKENS,
        overlong="truncate",
    )
    asked = call(
        "card = mi.head_card",
        "model",
        repr(str(done.card.head)),
        "profiles=profiles",
        "report=report",
        **OPTIONS,
    )
    return (
        f"from mi_toolkit.core.stimuli import passages\n{traced_code(done.analysis)}\n\n"
        f"{profiled}\n{asked}\nmi.view(card)\ncard.to_pandas()"
    )


def card_saveable(done: Carded) -> Saveable:
    """The card in files.

    Raises:
        PromptError: there is none.
    """
    card = done.card
    if card is None:
        raise PromptError(INVITATION)
    return Saveable(
        name=f"card-{card.head}",
        view=view_card(card),
        table=card.to_pandas,
        about={
            "model": done.analysis.model,
            "prompt": done.analysis.prompt,
            "head": str(card.head),
            "labels": list(card.labels),
            "parts": list(card.parts),
        },
    )


HELP = (
    "One {head} explained by evidence: where it looks, weighted by what it moves; the places of "
    "texts where it acts; what its weights read and write; the heads that it works with; and what "
    "{ablating|ablation} it costs, by kind of token. Every figure stands next to chance."
)
INVITATION = "Click a head: the first parts of its card come at once, the others as they are made."


def _job(found: Analysis, before: Carded | None, head: str) -> Job[Carded]:
    return found.job(lambda model: begin_card(model, found, head, before))


CARD = Panel(
    name="card",
    title="The card of a head",
    help=HELP,
    button="Make its card",
    invitation=INVITATION,
    job=_job,
    is_given_last=True,
    drawings=("card-shown", "card-next"),
    shown=shown,
    code=card_code,
    saveable=card_saveable,
    n_steps=len(PARTS),
    step=with_next_part,
    still=still,
)


def card_panel(page: Builder) -> None:
    """Click a head: its card, part by part."""
    with page.panel(CARD) as built:
        heads = drawing(elem_id="card-map")
        head = gr.Dropdown([], label="Head", elem_id="card-head", elem_classes=RELISTED)
        built.choices = [head]
    chosen = gr.State("")  # the field is empty until there is a model, and no request may lack one
    at_head = [heads, chosen, head]
    page.on(heads, _picked, outputs=at_head).success(None, js=CLICK % "card-run")
    page.on(head.input, _named, [head], [heads, chosen])
    page.when_analysed(_filled, [chosen], at_head)


def _at(found: Analysis, head: Head) -> tuple[Markup, str]:
    buttons = head_buttons(
        label_map(found.report), layers=found.pipeline.attention.layers, chosen=head
    )
    return buttons, str(head)


def _picked(session: Session, pick: str) -> tuple[Any, ...]:
    found = session.analysed()
    head = head_of(found.report, pick)
    return *_at(found, head), str(head)


def _named(session: Session, name: str) -> tuple[Any, ...]:
    found = session.analysis
    return (gr.skip(), gr.skip()) if found is None else _at(found, head_of(found.report, name))


def _filled(session: Session, chosen: str) -> tuple[Any, ...]:
    """The heads to choose from; one that the model has stays chosen."""
    found = session.analysed()
    choices = head_choices(found.report)
    names = [name for _, name in choices]
    head = chosen if chosen in names else [*suggested(found.report), *names][0]
    return *_at(found, Head.of(head)), gr.update(choices=choices, value=head)
