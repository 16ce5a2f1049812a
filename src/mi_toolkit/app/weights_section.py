"""The section on critical weights: score them all, zero one, see the text change."""

from __future__ import annotations

from typing import Any

import gradio as gr

from mi_toolkit.app.analysis import Analysis
from mi_toolkit.app.desk import Desk
from mi_toolkit.app.glossary import help_text
from mi_toolkit.app.picking import drawing, picked
from mi_toolkit.app.tools import tools
from mi_toolkit.app.weights import (
    METRICS,
    MOST,
    TEXTS,
    Weights,
    effect_html,
    maps_html,
    refreshed,
    run_scoring,
    run_zeroing,
    scored_html,
    weights_code,
    weights_saveable,
)

FIRST = "Analyze a prompt first, in the form above."
INVITATION = "Press Score weights."
STALE = "The model or the prompt is another one now: score again."

Shown = tuple[Weights | None, str, str, str, str]


def weights_section(desk: Desk, analysis: gr.State, analysed: Any) -> None:
    """Metric and number, the table, the effect of zeroing one, and the maps."""
    kept = gr.State(None, time_to_live=3600)
    gr.Markdown("## Critical weights\nWhich single numbers does the model hang on?")
    with gr.Accordion("Score weights, and zero them", elem_id="weights"):
        help_text(
            "Each weight of attention and {MLPs|MLP} gets a {score|score of a weight}. A score "
            "predicts; zeroing the weight tests it."
        )
        with gr.Row(equal_height=True):
            metric = gr.Dropdown(
                [(f"{name} · {said}", name) for name, said in METRICS.items()],
                value="grad_x_weight",
                label="Score by",
                min_width=260,
                scale=2,
                elem_id="weights-metric",
            )
            on = gr.Dropdown(
                [(text, name) for name, text in TEXTS.items()],
                value="prompt",
                label="Score on",
                min_width=180,
                elem_id="weights-on",
            )
            k = gr.Slider(
                1, MOST, 10, step=1, label="How many to list", min_width=180, elem_id="weights-k"
            )
        button = gr.Button(
            "Score weights", variant="primary", interactive=False, elem_id="weights-score"
        )
        table = drawing(_note(FIRST), elem_id="weights-top")
        changed = drawing(elem_id="weights-effect")
        maps = drawing(elem_id="weights-maps")
        code = tools("weights", [kept], weights_saveable)

    def score(
        found: Analysis | None,
        by: str,
        n: float,
        text: str,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Shown:
        began = _analysed(found)
        return _shown(
            desk.run(
                lambda model: run_scoring(model, began, by, int(n), text),
                model=began.model,
                request=request,
                progress=progress,
            )
        )

    def zero(
        found: Analysis | None,
        scored: Weights | None,
        event: gr.EventData,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Shown:
        began, asked = _analysed(found), picked(event)
        scored = refreshed(began, scored)
        if scored is None:
            return _shown(None)
        listed = scored
        return _shown(
            desk.run(
                lambda model: run_zeroing(model, began, listed, asked),
                model=began.model,
                request=request,
                progress=progress,
            )
        )

    outputs: list[Any] = [kept, table, changed, maps, code]
    running: dict[str, Any] = {
        "outputs": outputs,
        "api_visibility": "private",
        "concurrency_limit": 8,
        "concurrency_id": "models",
    }
    scoring = button.click(score, inputs=[analysis, metric, k, on], **running)
    zeroing = table.pick(zero, inputs=[analysis, kept], **running)
    for event in (analysed, scoring, zeroing):
        # Also behind a run: while it ran, another prompt may have been analyzed.
        event.success(_kept, inputs=[analysis, kept], outputs=outputs, api_visibility="private")
    analysed.success(lambda: gr.update(interactive=True), outputs=button, api_visibility="private")


def _kept(found: Analysis | None, scored: Weights | None) -> Any:
    """What a new analysis leaves standing."""
    if scored is None:
        return gr.skip() if found is None else (None, _note(INVITATION), "", "", "")
    still = refreshed(found, scored)
    return gr.skip() if still is scored else _shown(still)


def _shown(scored: Weights | None) -> Shown:
    if scored is None:
        return None, _note(STALE), "", "", ""
    return (
        scored,
        scored_html(scored),
        effect_html(scored),
        maps_html(scored),
        weights_code(scored),
    )


def _analysed(found: Analysis | None) -> Analysis:
    if found is None:
        raise gr.Error(FIRST, print_exception=False)
    return found


def _note(text: str) -> str:
    return f'<p class="caption" role="status">{text}</p>'
