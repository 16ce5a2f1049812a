"""The third stage: every head's labels on a map, and the pattern of the head that is looked at."""

from __future__ import annotations

from typing import Any

import gradio as gr

from mi_toolkit.app import code
from mi_toolkit.app.analysis import Analysis
from mi_toolkit.app.glossary import help_text
from mi_toolkit.app.picking import drawing, picked
from mi_toolkit.app.tools import Saveable, tools
from mi_toolkit.heads.head import Head
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.views.attention import AttentionView
from mi_toolkit.views.head_buttons import head_buttons, label_buttons
from mi_toolkit.views.head_listing import OFFER, head_html, listing_html
from mi_toolkit.views.head_maps import label_map
from mi_toolkit.views.pattern_table import pattern_html
from mi_toolkit.views.report import view_report

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

HELP = (
    "Colours are {labels|label}: what each {head} does on this prompt, several side by side. Click "
    "a head to see its {attention pattern}; click a label to list its heads, with their {lift} and "
    "its {interval}."
)


def attention_stage(analysis: gr.State, analysed: Any, prompt: gr.Textbox) -> None:
    """The map, the labels, and one head at a time."""
    chosen, label = gr.State(""), gr.State("")
    with gr.Accordion("3. Attention: where each head looks", elem_id="attention"):
        help_text(HELP)
        with gr.Row():
            with gr.Column(scale=2, min_width=330):
                heads = drawing(elem_id="head-map")
                labels = drawing(elem_id="head-labels")
                listing = drawing(elem_id="label-heads")
                lines = tools("attention", [analysis], report_saveable)
            with gr.Column(scale=3, min_width=330):
                shown = drawing(elem_id="head")
                head_lines = tools("head", [analysis, chosen], head_saveable)

    def first(found: Analysis) -> tuple[Any, ...]:
        head = first_look(found.report)
        return "", str(head), *_labelled(found, "", head), *_head(found, head), report_code(found)

    def head_picked(found: Analysis, name: str, event: gr.EventData) -> tuple[Any, ...]:
        head = Head.of(picked(event))
        return str(head), map_html(found, name, head), *_head(found, head)

    def label_picked(found: Analysis, name: str, head: str, event: gr.EventData) -> tuple[Any, ...]:
        chosen_now = "" if picked(event) == name else picked(event)
        return chosen_now, *_labelled(found, chosen_now, Head.of(head))

    def listed_picked(found: Analysis, name: str, event: gr.EventData) -> tuple[Any, ...]:
        if picked(event) == OFFER:
            return *(gr.skip(),) * 4, SHOWS_MOST
        return *head_picked(found, name, event), gr.skip()

    quietly: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    at_map, at_head = [chosen, heads], [shown, head_lines]
    at_label = [label, heads, labels, listing]
    analysed.success(
        first,
        inputs=analysis,
        outputs=[label, chosen, heads, labels, listing, *at_head, lines],
        **quietly,
    )
    heads.pick(head_picked, [analysis, label], [*at_map, *at_head], **quietly).success(
        None, js=TO_PATTERN
    )
    labels.pick(label_picked, [analysis, label, chosen], at_label, **quietly)
    listing.pick(listed_picked, [analysis, label], [*at_map, *at_head, prompt], **quietly).success(
        None, js=TO_PROMPT % (OFFER, TO_PATTERN)
    )


def first_look(report: HeadReport) -> Head:
    """The strongest head of a label that some head carries; else the first head."""
    others = (name for name in report.label_names if name not in FIRST_LOOK)
    for name in (*FIRST_LOOK, *others):
        if name in report.label_names and report.heads(name):
            return report.heads(name)[0]
    return Head(0, 0)


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
    return (
        f"{code.opening(found.model, found.prompt)}\nreport = mi.classify_heads(model, prompt)\n"
        "mi.view_report(report)\nreport.to_pandas()"
    )


def head_code(found: Analysis, head: Head) -> str:
    """The Python that gives one head's pattern."""
    return (
        f"{code.traced(found)}\nmi.view_attention(model, prompt, heads='{head}')\n"
        f"traced.pattern_to_pandas('{head}')"
    )


def report_saveable(found: Analysis | None) -> Saveable | None:
    """Every head's figures, as files."""
    if found is None:
        return None
    return Saveable(
        name="heads",
        view=view_report(found.report),
        table=found.report.to_pandas,
        about={"model": found.model, "prompt": found.prompt},
    )


def head_saveable(found: Analysis | None, chosen: str) -> Saveable | None:
    """One head's pattern, as files."""
    if found is None:
        return None
    head = Head.of(chosen)
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
