"""The form: what is asked for, by hand or by the page's address, and the analysis of it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
from markupsafe import Markup

from mi_toolkit.app import example
from mi_toolkit.app.context import Analysis, Job, Lend, Session, analyse
from mi_toolkit.app.generation_section import GENERATION, Written
from mi_toolkit.app.panel import QUIETLY, RELISTED, Builder, note
from mi_toolkit.app.settings import Settings
from mi_toolkit.app.tools import drawing, model_box
from mi_toolkit.core.display import html_table
from mi_toolkit.core.errors import MIToolkitError
from mi_toolkit.core.head import Head
from mi_toolkit.models.facts import attention_shape

EXAMPLES = (
    example.PROMPT,
    "The capital of France is",
    "The cat sat on the mat. The dog ran to the park. The cat sat on the mat. The dog",
    "Monday, Tuesday, Wednesday,",
)

FAILED = "Not analyzed. What stands below, if anything, is of the prompt before."

AS_ASKED = """() => {
  const asked = new URLSearchParams(location.search);
  const wanted = asked.has("prompt") ? "#analyze" : "#show-example";
  if (asked.has("prompt") || asked.get("example") !== "off") document.querySelector(wanted).click();
}"""
"""A page whose address has a prompt analyzes it as it opens; any other shows the example."""

STRONGEST = "strongest"
"""In place of a layer or a head: the one that carries a label most."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Form:
    """What is asked for, what asks, and what the model is."""

    model: gr.Textbox
    prompt: gr.Textbox
    beams: gr.Slider
    new_tokens: gr.Slider
    layer: gr.Dropdown
    head: gr.Dropdown
    analyze: gr.Button
    stop: gr.Button
    show: gr.Button
    facts: gr.HTML

    @property
    def asked(self) -> list[gr.components.Component]:
        """What an analysis is made from."""
        return [self.model, self.prompt, self.beams, self.new_tokens]


def form_fields(settings: Settings) -> Form:
    """The form, with what stands in it at first."""
    offered = settings.offered
    model = model_box(
        settings,
        example.MODEL if example.MODEL in offered else offered[0],
        label="Model",
        info=_typing(settings),
        elem_id="model",
    )
    prompt = gr.Textbox(
        EXAMPLES[0],
        label="Prompt",
        info=f"Up to {settings.most_prompt_tokens} tokens. Enter analyzes, Shift+Enter breaks the "
        "line.",
        lines=3,
        elem_id="prompt",
    )
    with gr.Row():
        analyze = gr.Button("Analyze", variant="primary", elem_id="analyze", scale=6, min_width=120)
        stop = gr.Button("Stop", elem_id="stop", min_width=80)
    with gr.Row():
        beams = _count("Beams", "beams", settings.most_beams, example.NUM_BEAMS)
        new_tokens = _count(
            "New tokens", "new-tokens", settings.most_new_tokens, example.NEW_TOKENS
        )
    with gr.Row():
        layer, head = _at("Layer", "layer"), _at("Head", "head-number")
    gr.Examples([[each] for each in EXAMPLES], [prompt], label="Prompts to try")
    return Form(
        model=model,
        prompt=prompt,
        beams=beams,
        new_tokens=new_tokens,
        layer=layer,
        head=head,
        analyze=analyze,
        stop=stop,
        show=gr.Button("Show the example", visible="hidden", elem_id="show-example"),
        facts=drawing(elem_id="facts"),
    )


def analysing(page: Builder, form: Form) -> Any:
    """Analyze what the form asks for. Gives the event of a new analysis."""
    settings = page.context.settings

    def shown(session: Session, found: Analysis) -> Markup:
        session.analysis = found
        return facts_html(found)

    def chosen(_: Session, typed: str) -> tuple[Any, ...]:
        return _choices(settings, typed, value=STRONGEST)

    at = [form.layer, form.head]
    page.relist(form.model.input, chosen, [form.model], at)
    analysed = page.run(
        form.analyze.click,
        lambda _, *asked: _analysis(settings, *asked),
        shown,
        inputs=form.asked,
        outputs=form.facts,
    )
    analysed.failure(lambda: note(FAILED), outputs=form.facts, **QUIETLY)
    return analysed


def opening(page: Builder, form: Form) -> Any:
    """Fill the form in from the page's address, or show the example. Gives the event of a visit."""
    settings = page.context.settings

    def opened(session: Session, query: Mapping[str, str]) -> tuple[Any, ...]:
        asked, shown = asked_for(query, settings), Markup("")
        session.asked = {name: asked.pop(name) for name in ("head", "position") if name in asked}
        if not asked and query.get("example") != "off" and example.MODEL in settings.offered:
            session.analysis, written = example.load_example()
            found = Written(analysis=session.analysis, generation=written)
            session.answers[GENERATION.name] = found
            shown = facts_html(session.analysis, is_example=True)
        given = [asked.get(name, gr.skip()) for name in ("model", "prompt", "beams", "tokens")]
        return *given, *_choices(settings, asked.get("model", form.model.value)), shown

    visited = page.when_opened(opened, [*form.asked, form.layer, form.head, form.facts])
    visited.success(None, js=AS_ASKED)
    return form.show.click


def asked_for(query: Mapping[str, str], settings: Settings) -> dict[str, Any]:
    """What a page's address asks for, as far as it can be had: the rest is left out."""
    asked: dict[str, Any] = {
        name: query[name][: settings.most_letters + 1]
        for name in ("model", "prompt")
        if query.get(name)
    }
    most = {"beams": settings.most_beams, "tokens": settings.most_new_tokens}
    for name, limit in most.items():
        if query.get(name, "").isdecimal():
            asked[name] = min(max(int(query[name][:9]), 1), limit)
    if query.get("position", "").isdecimal():
        asked["position"] = int(query["position"][:9])
    with suppress(MIToolkitError):
        asked["head"] = Head.of(query.get("head", ""))
    return asked


def _choices(settings: Settings, typed: str, **further: Any) -> tuple[Any, ...]:
    """What layer and head can be, of a model that is known or here, before it is loaded."""
    shape = None
    with suppress(MIToolkitError):
        shape = attention_shape(settings.model_named(typed))
    return tuple(gr.update(choices=numbers(count), **further) for count in shape or (0, 0))


def numbers(count: int) -> list[tuple[str, str]]:
    """The layers or heads to choose from, and none in particular."""
    return [(STRONGEST, STRONGEST), *((str(each), str(each)) for each in range(count))]


def _at(label: str, elem_id: str) -> gr.Dropdown:
    return gr.Dropdown(
        numbers(0),
        value=STRONGEST,
        label=label,
        elem_id=elem_id,
        elem_classes=RELISTED,
        min_width=120,
        filterable=False,
    )


def _count(label: str, elem_id: str, most: int, value: int) -> gr.Slider:
    return gr.Slider(
        1, most, value, step=1, precision=0, label=label, elem_id=elem_id, buttons=[], min_width=140
    )


def _analysis(
    settings: Settings, name: str, prompt: str, num_beams: int, max_new_tokens: int
) -> Job[Analysis]:
    asked = settings.model_named(name)

    def job(lend: Lend) -> Analysis:
        with lend(asked) as model:
            found = analyse(
                model,
                asked,
                prompt,
                num_beams=num_beams,
                max_new_tokens=max_new_tokens,
                settings=settings,
            )
        return replace(found, typed=name)

    return job


def facts_html(found: Analysis, *, is_example: bool = False) -> Markup:
    """What the model is, and how long the analysis took.

    It differs from run to run, so that the page shows, and a screen reader says, every one.
    """
    facts = found.facts
    shown = [
        ("family", facts.family),
        ("layers × heads", f"{facts.n_layers} × {facts.n_heads}"),
        ("key/value heads", f"{facts.n_kv_heads}"),
        ("positions", facts.positional),
        ("norm", facts.normalisation),
        ("activation", facts.activation),
        ("attention", facts.attention_scope),
        ("memory", f"{found.n_bytes / 2**20:,.0f} MiB"),
    ]
    chip = Markup("<span>{}<small>{}</small></span>")
    return Markup(
        '<p role="status" data-run="{run}" data-form="{form}"{example}><b>{name}</b> {said}</p>'
        '<div class="chips">{chips}</div><details><summary>All that the model is</summary>{table}'
        "</details>"
    ).format(
        run=time.time_ns(),
        form=json.dumps(
            [found.typed, found.prompt, str(found.num_beams), str(found.max_new_tokens)]
        ),
        name=facts.name,
        example=Markup(" data-example") if is_example else "",
        said="on an example, to look at." if is_example else f"analyzed in {found.seconds:.1f} s.",
        chips=Markup("").join(chip.format(value, name) for name, value in shown),
        table=Markup(html_table([], facts.text_table().rows)),
    )


def _typing(settings: Settings) -> str:
    if settings.is_closed:
        return "The models of this server."
    folders = ", or a folder of this server" if settings.allow_local else ""
    return f"Choose one, or type the id of any on the hub{folders}."
