"""The second section: the five stages of a prompt's way through the model."""

from __future__ import annotations

from typing import Any

import gradio as gr

from mi_toolkit.app.analysis import Analysis
from mi_toolkit.app.code import opening
from mi_toolkit.app.desk import Desk
from mi_toolkit.app.picking import drawing
from mi_toolkit.app.tools import Saveable, tools
from mi_toolkit.views.pipeline import tokens_html, view_pipeline


def pipeline_section(desk: Desk, analysis: gr.State, analysed: Any) -> None:
    """Tokens, embedding, attention, MLP and output, each foldable."""
    with gr.Accordion("1. Tokens", elem_id="tokens"):
        tokens = drawing()
        code = tools("tokens", [analysis], _tokens_saveable)
    analysed.success(
        lambda found: (tokens_html(found.pipeline), _code(found)),
        inputs=analysis,
        outputs=[tokens, code],
        api_visibility="private",
    )


def _code(found: Analysis) -> str:
    return f"""{opening(found.model, found.prompt)}
report = mi.classify_heads(model, prompt)
traced = mi.trace_pipeline(model, prompt, report=report)
traced.to_pandas("tokens")"""


def _tokens_saveable(found: Analysis | None) -> Saveable | None:
    if found is None:
        return None
    return Saveable(
        name="tokens",
        view=view_pipeline(found.pipeline),
        table=lambda: found.pipeline.to_pandas("tokens"),
        about={"model": found.model, "prompt": found.prompt},
    )
