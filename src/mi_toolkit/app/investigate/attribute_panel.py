"""The panel that attributes a prediction to tokens."""

from __future__ import annotations

from typing import Any

import gradio as gr

from mi_toolkit.app.analysis import Analysis
from mi_toolkit.app.desk import Desk
from mi_toolkit.app.glossary import help_text
from mi_toolkit.app.investigate.attribute import (
    NO_OTHER,
    Attributed,
    attributed_code,
    attributed_html,
    attributed_saveable,
    run_attribution,
)
from mi_toolkit.app.investigate.experiment import (
    FIRST,
    analysed_or_told,
    if_fresh,
    keep_fresh,
    note,
    token_choices,
)
from mi_toolkit.app.picking import drawing
from mi_toolkit.app.tools import tools
from mi_toolkit.attribution.baselines import BASELINES
from mi_toolkit.attribution.methods import METHODS
from mi_toolkit.attribution.objectives import OBJECTIVES

HELP = "Which tokens of the prompt a predicted token rests on: token {attribution}."
INVITATION = "Choose a token and a method, then Run."
METHOD = "integrated_gradients"


def attribute_panel(desk: Desk, analysis: gr.State, analysed: Any) -> None:
    """Which tokens of the prompt a prediction rests on."""
    answer = gr.State(None, time_to_live=3600)
    with gr.Accordion("Attribute to tokens", open=False, elem_id="attribute"):
        help_text(HELP)
        with gr.Row():
            target = gr.Dropdown(
                [],
                label="Why this token",
                info="The most probable ones behind the prompt.",
                elem_id="attribute-target",
            )
            other = gr.Dropdown(
                [("no other: this one by itself", NO_OTHER)],
                value=NO_OTHER,
                label="Rather than",
                info="A second token asks why this and not that.",
                elem_id="attribute-other",
            )
        with gr.Row():
            method = gr.Dropdown(
                [(name.replace("_", " "), name) for name in METHODS],
                value=METHOD,
                label="Method",
                info=_said(METHOD),
                elem_id="attribute-method",
            )
            baseline = gr.Dropdown(
                list(BASELINES),
                value=BASELINES[0],
                label="Baseline",
                info="What stands for no information.",
                elem_id="attribute-baseline",
            )
            objective = gr.Dropdown(
                [(name.replace("_", "-"), name) for name in OBJECTIVES],
                value="logit",
                label="Of the token",
                info="What is explained.",
                elem_id="attribute-objective",
            )
        button = gr.Button("Run", variant="primary", interactive=False, elem_id="attribute-run")
        shown = drawing(note(FIRST), elem_id="attribute-shown")
        code = tools("attribute", [answer], if_fresh(attributed_saveable))

    def run(
        found: Analysis | None,
        how: str,
        token: int,
        second: int,
        what: str,
        nothing: str,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[Attributed, str, str]:
        began = analysed_or_told(found)
        done = desk.run(
            lambda model: run_attribution(
                model,
                began,
                method=how,
                target=int(token),
                other=int(second),
                objective=what,
                baseline=nothing,
            ),
            model=began.model,
            request=request,
            progress=progress,
        )
        return done, attributed_html(done), attributed_code(done)

    ran = button.click(
        run,
        inputs=[analysis, method, target, other, objective, baseline],
        outputs=[answer, shown, code],
        api_visibility="private",
        concurrency_limit=8,
        concurrency_id="models",
    )
    analysed.success(
        _filled, inputs=analysis, outputs=[target, other, button], api_visibility="private"
    )
    keep_fresh(analysis, analysed, ran, answer, [shown, code], INVITATION)
    method.change(
        lambda name: (
            gr.update(info=_said(name)),
            gr.update(interactive=METHODS[name].has_baseline),
        ),
        inputs=method,
        outputs=[method, baseline],
        api_visibility="private",
    )


def _said(method: str) -> str:
    measures = METHODS[method].measures
    return f"{measures[0].upper()}{measures[1:]}."


def _filled(found: Analysis) -> tuple[Any, ...]:
    choices = token_choices(found.pipeline.output.predictions)
    return (
        gr.update(choices=choices, value=choices[0][1]),
        gr.update(choices=[("no other: this one by itself", NO_OTHER), *choices], value=NO_OTHER),
        gr.update(interactive=True),
    )
