"""The second section: the five stages of a prompt's way through the model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gradio as gr
from markupsafe import Markup

from mi_toolkit.app.context import TOP_K, Analysis, Session
from mi_toolkit.app.form import STRONGEST, Form, numbers
from mi_toolkit.app.glossary import help_text
from mi_toolkit.app.panel import Builder, index_picked, of_analysis
from mi_toolkit.app.tools import Saveable, drawing, traced_code
from mi_toolkit.core.errors import UnknownNameError
from mi_toolkit.core.head import Head
from mi_toolkit.draw.attention import AttentionView
from mi_toolkit.draw.head_listing import (
    OFFER,
    head_buttons,
    head_html,
    label_buttons,
    listing_html,
    pattern_html,
)
from mi_toolkit.draw.head_maps import label_map
from mi_toolkit.draw.pipeline import (
    embedding_html,
    mlp_html,
    position_buttons,
    position_html,
    tokens_html,
    view_pipeline,
    view_position,
)
from mi_toolkit.draw.report import view_report
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.text.pipeline import Pipeline

SHOWS_MOST = "one two three four one two three four one two"
"""A prompt in which every behaviour that one text can show, can show."""

NEEDS_SEVERAL = "positional"
"""The behaviour that takes several texts: `classify_heads(model)` measures it."""

FIRST_LOOK = ("induction", "duplicate_token", "previous_token", "first_token")
"""Labels whose strongest head is shown first, where there is one."""

TO_PATTERN = """() => {
  const shown = document.querySelector('#head').getBoundingClientRect();
  if (shown.top > innerHeight * 0.75 || shown.bottom < 80)
    document.querySelector('#head').scrollIntoView({ block: 'start' });
}"""

TO_PROMPT = """() => {
  const offer = document.querySelector('#label-heads [data-pick="%s"]');
  if (offer) document.querySelector('#prompt textarea').focus();
  else (%s)();
}"""

NONE_CHOSEN = "<p>Click a label to list its heads.</p>"

ATTENTION_HELP = (
    "Colours are {labels|label}: what each {head} does on this prompt, several side by side. Click "
    "a head to see its {attention pattern}; click a label to list its heads, with their {lift} and "
    "its {interval}."
)


def attention_stage(page: Builder, form: Form) -> None:
    """The map, the labels, and one head at a time."""
    chosen, label = gr.State(""), gr.State("")
    with gr.Accordion("3. Attention: where each head looks", elem_id="attention"):
        help_text(ATTENTION_HELP)
        with gr.Row():
            with gr.Column(scale=2, min_width=330):
                heads = drawing(elem_id="head-map")
                labels = drawing(elem_id="head-labels")
                listing = drawing(elem_id="label-heads")
                lines = page.tools("attention", of_analysis(report_saveable))
            with gr.Column(scale=3, min_width=330):
                shown = drawing(elem_id="head")
                head_lines = page.tools("head", of_analysis(head_saveable), [chosen])

    def first(session: Session, layer: str, head: str) -> tuple[Any, ...]:
        found, asked = session.analysed(), session.asked.pop("head", None)
        if asked is not None:
            layer, head = str(asked.layer), str(asked.head)
        look = asked_head(found.report, layer, head)
        shown = (*_labelled(found, "", look), *_head(found, look), report_code(found))
        return "", str(look), *shown, *_selectors(found.report, (layer, head), look)

    def head_shown(found: Analysis, head: Head, name: str) -> tuple[Any, ...]:
        return str(head), map_html(found, name, head), *_head(found, head)

    def head_picked(session: Session, pick: str, name: str) -> tuple[Any, ...]:
        found = session.analysed()
        head = head_of(found.report, pick)
        return *head_shown(found, head, name), str(head.layer), str(head.head)

    def head_named(session: Session, layer: str, head: str, name: str) -> tuple[Any, ...]:
        if session.analysis is None:
            return (gr.skip(),) * 4
        found = session.analysed()
        return head_shown(found, asked_head(found.report, layer, head), name)

    def label_picked(session: Session, pick: str, name: str, head: str) -> tuple[Any, ...]:
        found, chosen_now = session.analysed(), "" if pick == name else pick
        return chosen_now, *_labelled(found, chosen_now, head_of(found.report, head))

    def listed_picked(session: Session, pick: str, name: str) -> tuple[Any, ...]:
        if pick == OFFER:
            return *(gr.skip(),) * 6, SHOWS_MOST
        return *head_picked(session, pick, name), gr.skip()

    named = [form.layer, form.head]
    at_head = [chosen, heads, shown, head_lines]
    at_label = [label, heads, labels, listing]
    outputs = [label, chosen, heads, labels, listing, shown, head_lines, lines, *named]
    page.when_analysed(first, named, outputs)
    page.on(heads, head_picked, [label], [*at_head, *named]).success(None, js=TO_PATTERN)
    page.on(partial(gr.on, [each.input for each in named]), head_named, [*named, label], at_head)
    page.on(labels, label_picked, [label, chosen], at_label)
    page.on(listing, listed_picked, [label], [*at_head, *named, form.prompt]).success(
        None, js=TO_PROMPT % (OFFER, TO_PATTERN)
    )


def _selectors(report: HeadReport, asked: tuple[str, str], look: Head) -> list[Any]:
    """Layer and head to choose from, what was asked for still chosen where the model has it."""
    return [
        gr.update(choices=numbers(n), value=each if each == str(at) else STRONGEST)
        for each, at, n in zip(asked, look, report.scope.shape, strict=True)
    ]


def asked_head(report: HeadReport, layer: str, head: str) -> Head:
    """The head of that layer and number; where one of them is left open, a telling one."""
    if STRONGEST not in (layer, head):
        n_layers, n_heads = report.scope.shape
        if int(layer) < n_layers and int(head) < n_heads:
            return Head(int(layer), int(head))
    return first_look(report, layer=None if layer == STRONGEST else int(layer))


def head_of(report: HeadReport, name: str) -> Head:
    """A head of the analyzed model.

    Raises:
        UnknownNameError: it has no such head.
    """
    head = Head.of(name)
    n_layers, n_heads = report.scope.shape
    if head.layer >= n_layers or head.head >= n_heads:
        raise UnknownNameError(f"The model has no head {head}: {n_layers} layers of {n_heads}.")
    return head


def first_look(report: HeadReport, *, layer: int | None = None) -> Head:
    """The strongest head of a label that some head carries, of one layer; else the first head."""
    others = (name for name in report.label_names if name not in FIRST_LOOK)
    for name in (*FIRST_LOOK, *others):
        carriers = report.heads(name) if name in report.label_names else []
        for head in carriers:
            if layer in (None, head.layer):
                return head
    return Head(0 if layer is None or layer >= len(report.scope) else layer, 0)


def _labelled(found: Analysis, name: str, head: Head) -> tuple[str, str, str]:
    """The map, the labels and what is said of one."""
    return (
        map_html(found, name, head),
        label_buttons(found.report, name),
        listing_html(found.report, name, offer=offer_for(name)) if name else NONE_CHOSEN,
    )


def offer_for(label: str) -> str | None:
    """A prompt in which a label can show; None where no single prompt will do."""
    return None if label == NEEDS_SEVERAL else SHOWS_MOST


def map_html(found: Analysis, name: str, head: Head) -> str:
    """The map of heads, those with a label standing out where there are any."""
    carriers = found.report.heads(name) if name else []
    return head_buttons(
        label_map(found.report),
        layers=found.pipeline.attention.layers,
        chosen=head,
        lit=carriers or None,
    )


def _head(found: Analysis, head: Head) -> tuple[str, str]:
    pattern = pattern_html(
        found.pipeline.attention.pattern(head), found.pipeline.tokens.texts, str(head)
    )
    facts = head_html(found.report, found.pipeline, head)
    return f"<h3>{head}</h3>{pattern}{facts}", head_code(found, head)


def report_code(found: Analysis) -> str:
    """The Python that gives the map and the lists of heads."""
    return f"{traced_code(found)}\nmi.view(report)\nreport.to_pandas()"


def head_code(found: Analysis, head: Head) -> str:
    """The Python that gives one head's pattern."""
    return (
        f"{traced_code(found)}\nmi.view_attention(model, prompt, heads='{head}')\n"
        f"traced.pattern_to_pandas('{head}')"
    )


def report_saveable(found: Analysis) -> Saveable:
    """Every head's figures, as files."""
    return Saveable(
        name="heads",
        view=view_report(found.report),
        table=found.report.to_pandas,
        about={"model": found.model, "prompt": found.prompt},
    )


def head_saveable(found: Analysis, chosen: str) -> Saveable:
    """One head's pattern, as files."""
    head = head_of(found.report, chosen)
    return Saveable(
        name=str(head),
        view=AttentionView(
            model=found.pipeline.provenance.model,
            tokens=found.pipeline.tokens.texts,
            heads=(head,),
            patterns=found.pipeline.attention.pattern(head)[None],
        ),
        table=lambda: found.pipeline.pattern_to_pandas(head),
        about={
            "model": found.model,
            "prompt": found.prompt,
            "labels": found.report.labels_of(head),
        },
    )


SHOWN = 5
"""Predictions shown at first."""

OUTPUT_HELP = (
    "Click a token, or move the slider, to see what the model predicts after it; and with the "
    "{logit lens}, what it would predict if it stopped at each layer."
)


def output_stage(page: Builder) -> None:
    """The tokens to choose from, and the predictions after one."""
    with gr.Accordion("5. Output: what comes next, by layer", elem_id="output"):
        help_text(OUTPUT_HELP)
        tokens = drawing(elem_id="position-tokens")
        with gr.Row():
            position = gr.Slider(0, 1, 0, step=1, precision=0, label="Position", elem_id="position")
            top_k = gr.Slider(
                1, TOP_K, SHOWN, step=1, precision=0, label="Predictions (k)", elem_id="top-k"
            )
        shown = drawing(elem_id="predictions")
        lines = page.tools("output", of_analysis(output_saveable), [position, top_k])

    def first(session: Session, k: int) -> tuple[Any, ...]:
        found = session.analysed()
        last = len(found.pipeline.tokens.texts) - 1
        at = within(found, session.asked.pop("position", last))
        slider = gr.Slider(maximum=max(last, 1), value=at)
        return slider, *_at(found, at, k)

    def slid(session: Session, at: int, k: int) -> tuple[Any, ...]:
        found = session.analysis
        return (gr.skip(),) * 3 if found is None else _at(found, within(found, at), k)

    def token_picked(session: Session, pick: str, k: int) -> tuple[Any, ...]:
        found = session.analysed()
        place = index_picked(pick, len(found.pipeline.tokens.texts))
        return place, *_at(found, place, k)

    drawn = [tokens, shown, lines]
    page.when_analysed(first, [top_k], [position, *drawn])
    page.on(partial(gr.on, [position.input, top_k.input]), slid, [position, top_k], drawn)
    page.on(tokens, token_picked, [top_k], [position, *drawn])


def within(found: Analysis, at: int) -> int:
    """The position that a slider names, which may be left over from a longer prompt."""
    return min(max(at, 0), len(found.pipeline.tokens.texts) - 1)


def _at(found: Analysis, position: int, k: int) -> tuple[str, str, str]:
    top_k = min(k, TOP_K)
    return (
        position_buttons(found.pipeline, position),
        position_html(found.pipeline, position, top_k),
        output_code(found, position, top_k),
    )


def output_code(found: Analysis, position: int, top_k: int) -> str:
    """The Python that gives the predictions after one token."""
    return (
        f"{traced_code(found)}\nmi.view(traced, {position}, top_k={top_k})\n"
        f"traced.to_pandas('output').query('position == {position} and rank <= {top_k}')"
    )


def output_saveable(found: Analysis, at: int, k: int) -> Saveable:
    """The predictions after one token, as files."""
    position, top_k = within(found, at), min(k, TOP_K)
    return Saveable(
        name=f"output-{position}",
        view=view_position(found.pipeline, position, top_k=top_k),
        table=lambda: found.pipeline.to_pandas("output").query(
            f"position == {position} and rank <= {top_k}"
        ),
        about={"model": found.model, "prompt": found.prompt, "position": position},
    )


HELPS = {
    "tokens": "What the model reads: {tokens|token}, each with its place and its id. A dot (·) is "
    "a space.",
    "embedding": "Each token becomes a vector, its {embedding}: how long it is (its {norm}), and "
    "which tokens' vectors point most nearly the same way.",
    "mlp": "Each {MLP} reads a position by itself and adds to the {residual stream}: how much, and "
    "through which {neurons|neuron} most.",
}


def pipeline_section(page: Builder, form: Form) -> None:
    """Tokens, embedding, attention, MLP and output, each foldable."""
    drawing(Markup("<h2>Pipeline</h2>"))
    _stage(page, "tokens", "1. Tokens: the text as ids", tokens_html, is_open=True)
    _stage(page, "embedding", "2. Embedding: ids as vectors", embedding_html)
    attention_stage(page, form)
    _stage(page, "mlp", "4. MLP: what each layer adds by itself", mlp_html)
    output_stage(page)


def _stage(
    page: Builder, name: str, title: str, drawn: Callable[[Pipeline], str], *, is_open: bool = False
) -> None:
    """A stage that is one drawing of the traced prompt."""
    table = "mlp" if name == "mlp" else "tokens"
    with gr.Accordion(title, open=is_open, elem_id=name):
        help_text(HELPS[name])
        shown = drawing()
        lines = page.tools(name, of_analysis(partial(stage_saveable, name, table)))

    def first(session: Session) -> tuple[str, str]:
        found = session.analysed()
        return drawn(found.pipeline), stage_code(found, table)

    page.when_analysed(first, outputs=[shown, lines])


def stage_code(found: Analysis, table: str) -> str:
    """The Python that gives a stage's table."""
    return f"{traced_code(found)}\nmi.view(traced)\ntraced.to_pandas({table!r})"


def stage_saveable(name: str, table: str, found: Analysis) -> Saveable:
    """A stage's table, and the whole way through the model as a page and a picture."""
    return Saveable(
        name=name,
        view=view_pipeline(found.pipeline),
        table=lambda: found.pipeline.to_pandas(table),
        about={"model": found.model, "prompt": found.prompt},
    )
