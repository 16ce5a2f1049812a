"""The third section: what the model writes after the prompt, and what else it might have."""

from __future__ import annotations

import html
import time
from typing import Any

import gradio as gr

from mi_toolkit.app.code import opening
from mi_toolkit.app.context import Analysis, AppContext, analyse, shown_error
from mi_toolkit.app.glossary import help_text
from mi_toolkit.app.settings import Settings
from mi_toolkit.app.tools import Saveable, drawing, picked, tools
from mi_toolkit.core.display import html_table, human_count
from mi_toolkit.core.errors import MIToolkitError
from mi_toolkit.draw.generation import alternatives_grid, beam_buttons, tree_html, view_generation
from mi_toolkit.draw.markup import grid_html
from mi_toolkit.models.specs import MODELS
from mi_toolkit.text.generate import generate
from mi_toolkit.text.generation import Generation

HELP = (
    "What the model writes after the prompt, by {beam search}: the best texts first, by their "
    "mean log-probability. Click one to see the {alternatives} to each of its tokens."
)


def generation_section(desk: AppContext, analysis: gr.State, analysed: Any) -> None:
    """Beams as ranked texts and as a tree, and the alternatives of one."""
    generated, beam = gr.State(None, time_to_live=3600), gr.State(0)
    drawing("<h2>Generation</h2>")
    with gr.Accordion("Beams and alternatives", elem_id="generation"):
        help_text(HELP)
        beams = drawing(elem_id="beam-texts")
        tree = drawing(elem_id="beam-tree")
        alternatives = drawing(elem_id="beam-alternatives")
        lines = tools("generation", [analysis, generated], generation_saveable)

    def cleared() -> tuple[Any, ...]:
        return None, 0, "<p>The model writes…</p>", "", "", ""

    def run(
        found: Analysis,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[Any, ...]:
        written = desk.run(
            lambda hooked: generate(
                hooked,
                found.prompt,
                num_beams=found.num_beams,
                max_new_tokens=found.max_new_tokens,
            ),
            model=found.model,
            request=request,
            progress=progress,
        )
        return written, *_drawn(written, 0), tree_part(written), generation_code(found)

    def beam_picked(written: Generation, event: gr.EventData) -> tuple[Any, ...]:
        index = min(max(int(picked(event)), 0), len(written.sequences) - 1)
        return index, *_drawn(written, index)

    everything = [generated, beam, beams, tree, alternatives, lines]
    analysed.success(
        cleared, outputs=everything, show_progress="hidden", api_visibility="private"
    ).success(
        run,
        inputs=analysis,
        outputs=[generated, beams, alternatives, tree, lines],
        show_progress_on=beams,
        api_visibility="private",
        concurrency_limit=8,
        concurrency_id="models",
    ).failure(
        lambda: "<p>Nothing was written.</p>",
        outputs=beams,
        show_progress="hidden",
        api_visibility="private",
    )
    beams.pick(
        beam_picked,
        generated,
        [beam, beams, alternatives],
        show_progress="hidden",
        api_visibility="private",
    )


def _drawn(written: Generation, index: int) -> tuple[str, str]:
    """The texts, and the alternatives of the one that is looked at."""
    return beam_buttons(written, index), grid_html(alternatives_grid(written, index))


def tree_part(written: Generation) -> str:
    """The tree, or why there is none."""
    if written.num_beams == 1:
        return "<p>One beam: the most probable token at every step. With more, a tree is drawn.</p>"
    return f"<h3>Beams</h3>{tree_html(written)}"


def generation_code(found: Analysis) -> str:
    """The Python that gives the same texts."""
    return (
        f"{opening(found.model, found.prompt)}\n"
        f"generation = mi.generate(model, prompt, num_beams={found.num_beams}, "
        f"max_new_tokens={found.max_new_tokens})\n"
        "mi.view(generation)\ngeneration.to_pandas('alternatives')"
    )


def generation_saveable(found: Analysis | None, written: Generation | None) -> Saveable | None:
    """The beams and the alternatives, as files."""
    if found is None or written is None:
        return None
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


EXAMPLES = (
    "When Mary and John went to the store, John gave a drink to",
    "The capital of France is",
    "The cat sat on the mat. The dog ran to the park. The cat sat on the mat. The dog",
    "Monday, Tuesday, Wednesday,",
)

DEFAULT_MODEL = "toy-gpt2"


def generator_section(desk: AppContext) -> tuple[gr.State, Any, gr.Textbox]:
    """The form. Gives the session's analysis, the event that comes with a new one, the prompt."""
    settings = desk.settings
    analysis = gr.State(None, time_to_live=3600)
    with gr.Row(elem_id="generator"):
        with gr.Column(scale=2, min_width=300):
            model = gr.Dropdown(
                choices=[(_described(name), name) for name in settings.offered],
                value=DEFAULT_MODEL if DEFAULT_MODEL in settings.offered else settings.offered[0],
                allow_custom_value=not settings.allow_models,
                label="Model",
                info=_typing(settings),
                elem_id="model",
            )
            with gr.Row():
                beams = gr.Slider(
                    1,
                    settings.most_beams,
                    3,
                    step=1,
                    label="Beams",
                    elem_id="beams",
                    buttons=[],
                    min_width=140,
                )
                new_tokens = gr.Slider(
                    1,
                    settings.most_new_tokens,
                    8,
                    step=1,
                    label="New tokens",
                    elem_id="new-tokens",
                    buttons=[],
                    min_width=140,
                )
        with gr.Column(scale=3, min_width=300):
            prompt = gr.Textbox(
                EXAMPLES[0],
                label="Prompt",
                info=f"Up to {settings.most_prompt_tokens} tokens.",
                lines=3,
                max_length=settings.most_letters,
                elem_id="prompt",
            )
            gr.Examples([[each] for each in EXAMPLES], [prompt], label="Prompts to try")
    button = gr.Button("Analyze", variant="primary", elem_id="analyze")
    facts = drawing(elem_id="facts")

    def run(
        name: str,
        text: str,
        num_beams: int,
        max_new_tokens: int,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(track_tqdm=True),  # noqa: B008
    ) -> tuple[Analysis, str]:
        begun = time.perf_counter()
        try:
            asked = settings.model_named(name or "")
        except MIToolkitError as error:
            raise shown_error(error) from error
        found = desk.run(
            lambda hooked: analyse(
                hooked,
                asked,
                text,
                num_beams=min(num_beams, settings.most_beams),
                max_new_tokens=min(max_new_tokens, settings.most_new_tokens),
                settings=settings,
            ),
            model=asked,
            request=request,
            progress=progress,
        )
        return found, facts_html(found, time.perf_counter() - begun)

    analysed = gr.on(
        [button.click, prompt.submit],
        run,
        inputs=[model, prompt, beams, new_tokens],
        outputs=[analysis, facts],
        api_visibility="private",
        concurrency_limit=8,
        concurrency_id="models",
    )
    return analysis, analysed, prompt


def facts_html(found: Analysis, seconds: float) -> str:
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
    chips = "".join(
        f"<span>{html.escape(value)}<small>{html.escape(name)}</small></span>"
        for name, value in told
    )
    table = html_table([], facts.text_table().rows)
    return (
        f'<p role="status" data-run="{time.time_ns()}"><b>{html.escape(facts.name)}</b> '
        f"analyzed in {seconds:.1f} s.</p>"
        f'<div class="chips">{chips}</div><details><summary>All that the model is</summary>'
        f"{table}</details>"
    )


def _described(name: str) -> str:
    spec = MODELS.get(name)
    if spec is None:
        return name
    return (
        f"{name} · {spec.family}, {human_count(spec.parameters)}, {spec.n_layers} × "
        f"{spec.n_heads} heads · {spec.key_feature}"
    )


def _typing(settings: Settings) -> str:
    if settings.allow_models:
        return "The models of this server."
    folders = ", or a folder of this server" if settings.allow_local else ""
    return f"Choose one, or type the id of any on the hub{folders}."
