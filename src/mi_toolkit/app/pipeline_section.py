"""The second section: the five stages of a prompt's way through the model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gradio as gr

from mi_toolkit.app import code
from mi_toolkit.app.analysis import Analysis
from mi_toolkit.app.attention_stage import attention_stage
from mi_toolkit.app.glossary import help_text
from mi_toolkit.app.output_stage import output_stage
from mi_toolkit.app.picking import drawing
from mi_toolkit.app.tools import Saveable, tools
from mi_toolkit.pipeline import Pipeline
from mi_toolkit.views.pipeline import embedding_html, mlp_html, tokens_html, view_pipeline

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
    return f"{code.traced(found)}\nmi.view_pipeline(traced)\ntraced.to_pandas({table!r})"


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
