"""The second section: the five stages of a prompt's way through the model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gradio as gr

from mi_toolkit.app import code
from mi_toolkit.app.context import TOP_K, Analysis
from mi_toolkit.app.glossary import help_text
from mi_toolkit.app.tools import Saveable, drawing, picked, tools
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


def attention_stage(analysis: gr.State, analysed: Any, prompt: gr.Textbox) -> None:
    """The map, the labels, and one head at a time."""
    chosen, label = gr.State(""), gr.State("")
    with gr.Accordion("3. Attention: where each head looks", elem_id="attention"):
        help_text(ATTENTION_HELP)
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
        "mi.view(report)\nreport.to_pandas()"
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


SHOWN = 5
"""Predictions shown at first."""

OUTPUT_HELP = (
    "Click a token, or move the slider, to see what the model predicts after it; and with the "
    "{logit lens}, what it would predict if it stopped at each layer."
)


def output_stage(analysis: gr.State, analysed: Any) -> None:
    """The tokens to choose from, and the predictions after one."""
    with gr.Accordion("5. Output: what comes next, by layer", elem_id="output"):
        help_text(OUTPUT_HELP)
        tokens = drawing(elem_id="position-tokens")
        with gr.Row():
            position = gr.Slider(0, 1, 0, step=1, label="Position", elem_id="position")
            top_k = gr.Slider(1, TOP_K, SHOWN, step=1, label="Predictions (k)", elem_id="top-k")
        shown = drawing(elem_id="predictions")
        lines = tools("output", [analysis, position, top_k], output_saveable)

    def first(found: Analysis, k: int) -> tuple[Any, ...]:
        last = len(found.pipeline.tokens.texts) - 1
        slider = gr.Slider(maximum=max(last, 1), value=last)
        return slider, position_buttons(found.pipeline, last), *_behind(found, last, k)

    def slid(found: Analysis | None, at: int, k: int) -> tuple[Any, ...]:
        if found is None:
            return gr.skip(), gr.skip(), gr.skip()
        place = within(found, at)
        return position_buttons(found.pipeline, place), *_behind(found, place, k)

    def token_picked(found: Analysis, k: int, event: gr.EventData) -> tuple[Any, ...]:
        place = within(found, int(picked(event)))
        return place, position_buttons(found.pipeline, place), *_behind(found, place, k)

    quietly: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    drawn = [tokens, shown, lines]
    analysed.success(first, [analysis, top_k], [position, *drawn], **quietly)
    gr.on(
        [position.input, top_k.input], slid, [analysis, position, top_k], drawn,
        trigger_mode="always_last", **quietly,
    )  # fmt: skip
    tokens.pick(token_picked, [analysis, top_k], [position, *drawn], **quietly)


def within(found: Analysis, at: int) -> int:
    """The position that a slider names, which may be left over from a longer prompt."""
    return min(max(at, 0), len(found.pipeline.tokens.texts) - 1)


def _behind(found: Analysis, position: int, k: int) -> tuple[str, str]:
    top_k = min(k, TOP_K)
    return position_html(found.pipeline, position, top_k), output_code(found, position, top_k)


def output_code(found: Analysis, position: int, top_k: int) -> str:
    """The Python that gives the predictions after one token."""
    return (
        f"{code.traced(found)}\nmi.view(traced, {position}, top_k={top_k})\n"
        f"traced.to_pandas('output').query('position == {position} and rank <= {top_k}')"
    )


def output_saveable(found: Analysis | None, at: int, k: int) -> Saveable | None:
    """The predictions after one token, as files."""
    if found is None:
        return None
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


def pipeline_section(analysis: gr.State, analysed: Any, prompt: gr.Textbox) -> None:
    """Tokens, embedding, attention, MLP and output, each foldable."""
    drawing("<h2>Pipeline</h2>")
    _stage(analysis, analysed, "tokens", "1. Tokens: the text as ids", tokens_html, is_open=True)
    _stage(analysis, analysed, "embedding", "2. Embedding: ids as vectors", embedding_html)
    attention_stage(analysis, analysed, prompt)
    _stage(analysis, analysed, "mlp", "4. MLP: what each layer adds by itself", mlp_html)
    output_stage(analysis, analysed)


def _stage(
    analysis: gr.State,
    analysed: Any,
    name: str,
    title: str,
    drawn: Callable[[Pipeline], str],
    *,
    is_open: bool = False,
) -> None:
    """A stage that is one drawing of the traced prompt."""
    table = "mlp" if name == "mlp" else "tokens"
    with gr.Accordion(title, open=is_open, elem_id=name):
        help_text(HELPS[name])
        shown = drawing()
        lines = tools(name, [analysis], partial(stage_saveable, name, table))
    analysed.success(
        lambda found: (drawn(found.pipeline), stage_code(found, table)),
        inputs=analysis,
        outputs=[shown, lines],
        show_progress="hidden",
        api_visibility="private",
    )


def stage_code(found: Analysis, table: str) -> str:
    """The Python that gives a stage's table."""
    return f"{code.traced(found)}\nmi.view(traced)\ntraced.to_pandas({table!r})"


def stage_saveable(name: str, table: str, found: Analysis | None) -> Saveable | None:
    """A stage's table, and the whole way through the model as a page and a picture."""
    if found is None:
        return None
    return Saveable(
        name=name,
        view=view_pipeline(found.pipeline),
        table=lambda: found.pipeline.to_pandas(table),
        about={"model": found.model, "prompt": found.prompt},
    )
