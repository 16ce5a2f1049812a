"""The third section: what the model writes after the prompt, and what else it might have."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import gradio as gr
from markupsafe import Markup

from mi_toolkit.app.code import opening
from mi_toolkit.app.context import Analysis, Job, Session, analyse
from mi_toolkit.app.model_box import model_box
from mi_toolkit.app.panel import QUIETLY, Builder, Panel, index_picked, note
from mi_toolkit.app.settings import Settings
from mi_toolkit.app.tools import Saveable, drawing
from mi_toolkit.core.display import html_table
from mi_toolkit.draw.generation import alternatives_grid, beam_buttons, tree_html, view_generation
from mi_toolkit.draw.markup import grid_html
from mi_toolkit.text.generate import generate
from mi_toolkit.text.generation import Generation


@dataclass(frozen=True, kw_only=True, eq=False)
class Written:
    """What a model wrote after the analyzed prompt."""

    analysis: Analysis
    """What it began with."""

    generation: Generation
    """The beams."""


def _writing(found: Analysis) -> Job[Written]:
    return found.job(
        lambda model: Written(
            analysis=found,
            generation=generate(
                model,
                found.prompt,
                num_beams=found.num_beams,
                max_new_tokens=found.max_new_tokens,
            ),
        )
    )


def _drawn(written: Written, index: int) -> tuple[str, str]:
    """The texts, and the alternatives of the one that is looked at."""
    made = written.generation
    return beam_buttons(made, index), grid_html(alternatives_grid(made, index))


def _shown(written: Written) -> tuple[str, str, str]:
    texts, alternatives = _drawn(written, 0)
    return texts, tree_part(written.generation), alternatives


def tree_part(written: Generation) -> str:
    """The tree, or why there is none."""
    if written.num_beams == 1:
        return "<p>One beam: the most probable token at every step. With more, a tree is drawn.</p>"
    return f"<h3>Beams</h3>{tree_html(written)}"


def generation_code(written: Written) -> str:
    """The Python that gives the same texts."""
    found = written.analysis
    return (
        f"{opening(found.model, found.prompt)}\n"
        f"generation = mi.generate(model, prompt, num_beams={found.num_beams}, "
        f"max_new_tokens={found.max_new_tokens})\n"
        "mi.view(generation)\ngeneration.to_pandas('alternatives')"
    )


def generation_saveable(done: Written) -> Saveable:
    """The beams and the alternatives, as files."""
    found, written = done.analysis, done.generation
    return Saveable(
        name="generation",
        view=view_generation(written),
        table=lambda: written.to_pandas("alternatives"),
        about={
            "model": found.model,
            "prompt": written.prompt,
            "num_beams": written.num_beams,
            "max_new_tokens": written.max_new_tokens,
            "sequences": [
                {"text": each.text, "score": each.score, "ended": each.ended}
                for each in written.sequences
            ],
        },
    )


GENERATION = Panel(
    name="generation",
    title="Beams and alternatives",
    help="What the model writes after the prompt, by {beam search}: the best texts first, by their "
    "mean log-probability. Click one to see the {alternatives} to each of its tokens.",
    button=None,
    is_open=True,
    invitation="The model writes…",
    job=_writing,
    drawings=("beam-texts", "beam-tree", "beam-alternatives"),
    shown=_shown,
    code=generation_code,
    saveable=generation_saveable,
)


def generation_section(page: Builder) -> None:
    """Beams as ranked texts and as a tree, and the alternatives of one."""
    drawing(Markup("<h2>Generation</h2>"))
    with page.panel(GENERATION) as built:
        pass
    texts, _, alternatives = built.drawings

    def beam_picked(session: Session, pick: str) -> tuple[str, str]:
        written = page.answer(session, GENERATION)
        return _drawn(written, index_picked(pick, len(written.generation.sequences)))

    page.on(texts, beam_picked, outputs=[texts, alternatives])


EXAMPLES = (
    "When Mary and John went to the store, John gave a drink to",
    "The capital of France is",
    "The cat sat on the mat. The dog ran to the park. The cat sat on the mat. The dog",
    "Monday, Tuesday, Wednesday,",
)

FAILED = "Not analyzed. What stands below, if anything, is of the prompt before."
DEFAULT_MODEL = "toy-gpt2"


def generator_section(page: Builder) -> tuple[Any, gr.Button, gr.Textbox]:
    """The form. Gives the event that comes with a new analysis, Stop, and the prompt."""
    settings = page.context.settings
    with gr.Row(elem_id="generator"):
        with gr.Column(scale=2, min_width=300):
            offered = settings.offered
            model = model_box(
                settings,
                DEFAULT_MODEL if DEFAULT_MODEL in offered else offered[0],
                label="Model",
                info=_typing(settings),
                elem_id="model",
            )
            with gr.Row():
                beams = _count("Beams", "beams", settings.most_beams, 3)
                new_tokens = _count("New tokens", "new-tokens", settings.most_new_tokens, 8)
        with gr.Column(scale=3, min_width=300):
            prompt = gr.Textbox(
                EXAMPLES[0],
                label="Prompt",
                info=f"Up to {settings.most_prompt_tokens} tokens.",
                lines=3,
                elem_id="prompt",
            )
            gr.Examples([[each] for each in EXAMPLES], [prompt], label="Prompts to try")
    with gr.Row():
        button = gr.Button("Analyze", variant="primary", elem_id="analyze", scale=6)
        stop = gr.Button("Stop", elem_id="stop", min_width=80)
    facts = drawing(elem_id="facts")

    def shown(session: Session, found: Analysis) -> Markup:
        session.analysis = found
        return facts_html(found)

    analysed = page.run(
        partial(gr.on, [button.click, prompt.submit]),
        lambda _, *asked: _analysis(settings, *asked),
        shown,
        inputs=[model, prompt, beams, new_tokens],
        outputs=facts,
        trigger_mode="always_last",  # pressed during a run: the next one
    )
    analysed.failure(lambda: note(FAILED), outputs=facts, **QUIETLY)
    return analysed, stop, prompt


def _count(label: str, elem_id: str, most: int, value: int) -> gr.Slider:
    return gr.Slider(
        1, most, value, step=1, precision=0, label=label, elem_id=elem_id, buttons=[], min_width=140
    )


def _analysis(
    settings: Settings, name: str, prompt: str, num_beams: int, max_new_tokens: int
) -> Job[Analysis]:
    asked = settings.model_named(name)
    return Job(
        models=(asked,),
        work=lambda models: replace(
            analyse(
                models[asked],
                asked,
                prompt,
                num_beams=num_beams,
                max_new_tokens=max_new_tokens,
                settings=settings,
            ),
            typed=name,
        ),
    )


def facts_html(found: Analysis) -> Markup:
    """What the model is, and how long the analysis took.

    It differs from run to run, so that the page shows, and a screen reader says, every one.
    """
    facts = found.facts
    told = [
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
        '<p role="status" data-run="{run}" data-form="{form}"><b>{name}</b> analyzed in '
        "{seconds:.1f} s.</p>"
        '<div class="chips">{chips}</div><details><summary>All that the model is</summary>{table}'
        "</details>"
    ).format(
        run=time.time_ns(),
        form=json.dumps(
            [found.typed, found.prompt, str(found.num_beams), str(found.max_new_tokens)]
        ),
        name=facts.name,
        seconds=found.seconds,
        chips=Markup("").join(chip.format(value, name) for name, value in told),
        table=Markup(html_table([], facts.text_table().rows)),
    )


def _typing(settings: Settings) -> str:
    if settings.is_closed:
        return "The models of this server."
    folders = ", or a folder of this server" if settings.allow_local else ""
    return f"Choose one, or type the id of any on the hub{folders}."
