"""The third section: what the model writes behind the prompt, and what else it might have."""

from __future__ import annotations

from typing import Any

import gradio as gr

from mi_toolkit.app.analysis import Analysis
from mi_toolkit.app.code import opening
from mi_toolkit.app.desk import Desk
from mi_toolkit.app.glossary import help_text
from mi_toolkit.app.picking import drawing, picked
from mi_toolkit.app.tools import Saveable, tools
from mi_toolkit.generation import Generation, generate
from mi_toolkit.views.beams import tree_html
from mi_toolkit.views.generation import alternatives_grid, beam_buttons, view_generation
from mi_toolkit.views.token_grid import grid_html

HELP = (
    "What the model writes behind the prompt, by {beam search}: the best texts first, by their "
    "mean log-probability. Click one to see the {alternatives} to each of its tokens."
)


def generation_section(desk: Desk, analysis: gr.State, analysed: Any) -> None:
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
        "mi.view_generation(generation)\ngeneration.to_pandas('alternatives')"
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
