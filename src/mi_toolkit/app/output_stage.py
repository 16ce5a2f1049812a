"""The fifth stage: what the model predicts behind the token that is looked at, layer by layer."""

from __future__ import annotations

from typing import Any

import gradio as gr

from mi_toolkit.app import code
from mi_toolkit.app.analysis import TOP_K, Analysis
from mi_toolkit.app.glossary import help_text
from mi_toolkit.app.picking import drawing, picked
from mi_toolkit.app.tools import Saveable, tools
from mi_toolkit.views.position import position_buttons, position_html, view_position

SHOWN = 5
"""Predictions shown at first."""

HELP = (
    "Click a token, or move the slider, to see what the model predicts behind it; and with the "
    "{logit lens}, what it would predict if it stopped at each layer."
)


def output_stage(analysis: gr.State, analysed: Any) -> None:
    """The tokens to choose from, and the predictions behind one."""
    with gr.Accordion("5. Output: what comes next, by layer", elem_id="output"):
        help_text(HELP)
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
    """The Python that gives the predictions behind one token."""
    return (
        f"{code.traced(found)}\nmi.view_position(traced, {position}, top_k={top_k})\n"
        f"traced.to_pandas('output').query('position == {position} and rank <= {top_k}')"
    )


def output_saveable(found: Analysis | None, at: int, k: int) -> Saveable | None:
    """The predictions behind one token, as files."""
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
