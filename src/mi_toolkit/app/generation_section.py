"""The third section: what the model writes after the prompt, and what else it might have."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import gradio as gr
from markupsafe import Markup

from mi_toolkit.app.context import Analysis, Job, Session
from mi_toolkit.app.panel import Builder, Panel, index_picked
from mi_toolkit.app.tools import Saveable, call, drawing, opening_code
from mi_toolkit.draw.generation import alternatives_grid, beam_buttons, tree_html, view_generation
from mi_toolkit.draw.markup import grid_html
from mi_toolkit.text.generate import generate
from mi_toolkit.text.generation import Generation, Sampling


@dataclass(frozen=True, kw_only=True, eq=False)
class Written:
    """What a model wrote after the analyzed prompt."""

    analysis: Analysis
    """What it began with."""

    generation: Generation
    """The beams, or what was drawn."""

    chosen: int = 0
    """Which of the texts is looked at."""


SEARCH, DRAW = "search", "draw"
HOW = {SEARCH: "beam search: the most probable texts", DRAW: "sampling: each token drawn by chance"}


def _writing(
    found: Analysis, how: str, temperature: float, top_k: float, top_p: float, seed: float
) -> Job[Written]:
    sampling = None
    if how == DRAW:
        sampling = Sampling(temperature=temperature, top_k=int(top_k), top_p=top_p, seed=int(seed))
    return found.job(
        lambda model: Written(
            analysis=found,
            generation=generate(
                model,
                found.prompt,
                num_beams=found.num_beams,
                max_new_tokens=found.max_new_tokens,
                sampling=sampling,
            ),
        )
    )


def _drawn(written: Written) -> tuple[str, str]:
    """The texts, and the alternatives of the one that is looked at."""
    made, index = written.generation, written.chosen
    return beam_buttons(made, index), grid_html(alternatives_grid(made, index))


def _shown(written: Written) -> tuple[str, str, str]:
    texts, alternatives = _drawn(written)
    return texts, tree_part(written.generation), alternatives


def tree_part(written: Generation) -> str:
    """The tree, or why there is none."""
    if written.num_beams == 1:
        taken = "the most probable token" if written.sampling is None else "a token that was drawn"
        return f"<p>One beam: {taken} at every step. With more, a tree is drawn.</p>"
    title = "Beams" if written.sampling is None else "What was drawn"
    return f"<h3>{title}</h3>{tree_html(written)}"


def generation_code(written: Written) -> str:
    """The Python that gives the same texts."""
    found, drawn = written.analysis, written.generation.sampling
    options: dict[str, Any] = {
        "num_beams": found.num_beams,
        "max_new_tokens": found.max_new_tokens,
    }
    if drawn is not None:
        options["sampling"] = drawn
    asked = call("generation = mi.generate", "model", "prompt", **options)
    lines = [
        opening_code(found.model, found.prompt),
        asked.replace("=Sampling(", "=mi.text.Sampling("),
        "mi.view(generation)",
        "generation.to_pandas('alternatives')",
    ]
    return "\n".join(lines)


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
            "sampling": None if written.sampling is None else asdict(written.sampling),
            "sequences": [
                {"text": each.text, "score": each.score, "ended": each.ended}
                for each in written.sequences
            ],
        },
    )


GENERATION = Panel(
    name="generation",
    title="Beams and alternatives",
    help="What the model writes after the prompt, by {beam search} or drawn by chance: the best "
    "texts first, by their mean log-probability. Click one to see the {alternatives} to each of "
    "its tokens, or follow it through the model.",
    button="Write again",
    runs_itself=True,
    is_open=True,
    invitation="The model writes…",
    job=_writing,
    drawings=("beam-texts", "beam-tree", "beam-alternatives"),
    shown=_shown,
    code=generation_code,
    saveable=generation_saveable,
)


def generation_section(page: Builder, prompt: gr.Textbox) -> None:
    """Texts, ranked, and as a tree; the alternatives of one, and its way through the model."""
    drawing(Markup("<h2>Generation</h2>"))
    with page.panel(GENERATION) as built:
        how = gr.Dropdown(
            [(said, name) for name, said in HOW.items()],
            value=SEARCH,
            label="How",
            info="As many texts as the form says beams.",
            elem_id="writing-how",
        )
        with gr.Row(visible=False, elem_id="drawing") as drawn_by:
            settings = [
                gr.Slider(
                    low,
                    high,
                    value,
                    step=step,
                    label=label,
                    info=info,
                    buttons=[],
                    min_width=140,
                    elem_id=f"sampling-{label.casefold().replace(' ', '-')}",
                )
                for label, info, low, high, value, step in SAMPLING
            ]
        built.choices = [how, *settings]
        page.on(how.change, lambda _, chosen: gr.update(visible=chosen == DRAW), [how], drawn_by)
    follow = gr.Button("Follow the chosen text through the model", size="sm", elem_id="follow")
    texts, _, alternatives = built.drawings

    def text_picked(session: Session, pick: str) -> tuple[str, str]:
        written = page.answer(session, GENERATION)
        index = index_picked(pick, len(written.generation.sequences))
        chosen = session.answers[GENERATION.name] = replace(written, chosen=index)
        return _drawn(chosen)

    def followed(session: Session) -> str:
        written = page.answer(session, GENERATION)
        found = written.analysis
        session.asked["position"] = len(found.pipeline.tokens.ids) - 1
        return found.prompt + written.generation.sequences[written.chosen].text

    page.on(texts, text_picked, outputs=[texts, alternatives])
    page.on(follow.click, followed, outputs=prompt).success(None, js=ANALYZE)


SAMPLING = (
    ("Temperature", "Below 1: the probable ones more often.", 0.1, 3, 1, 0.1),
    ("Top k", "Of the k most probable; 0: of all.", 0, 100, 0, 1),
    ("Top p", "Of those that hold so much together.", 0.05, 1, 1, 0.05),
    ("Seed", "The same one draws the same.", 0, 999, 0, 1),
)
"""Label, what it is, lowest, highest, value, step."""

ANALYZE = """() => document.querySelector("#analyze").click()"""
