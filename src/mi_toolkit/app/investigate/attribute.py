"""Which tokens the prediction rests on: what the panel runs, shows, writes as code and saves."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

import gradio as gr

from mi_toolkit.app.code import opening
from mi_toolkit.app.context import Analysis, AppContext
from mi_toolkit.app.glossary import help_text
from mi_toolkit.app.investigate.experiment import (
    FIRST,
    analysed_or_told,
    call,
    if_fresh,
    keep_fresh,
    note,
    token_choices,
)
from mi_toolkit.app.tools import Saveable, drawing, tools
from mi_toolkit.attribution.attribute import attribute
from mi_toolkit.attribution.attribution import Attribution
from mi_toolkit.attribution.baselines import BASELINES, OBJECTIVES
from mi_toolkit.attribution.methods import METHODS
from mi_toolkit.core.model import HookedModel
from mi_toolkit.draw.attribution import attribution_html, caption, view_attribution

NO_OTHER = -1
"""Stands for no second token."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Attributed:
    """An attribution on the analyzed prompt."""

    analysis: Analysis
    """What it began with."""

    attribution: Attribution
    """What each token counts for."""

    baseline: str | None
    """What was asked for as no information; None where the method has none."""


def run_attribution(
    model: HookedModel,
    found: Analysis,
    *,
    method: str,
    target: int,
    other: int = NO_OTHER,
    objective: str,
    baseline: str,
) -> Attributed:
    """Score the prompt's tokens for one predicted token, or for one rather than another.

    Raises:
        MIToolkitError: as `attribute` does.
    """
    given = baseline if METHODS[method].has_baseline else None
    why = attribute(
        model,
        found.prompt,
        target if other == NO_OTHER else (target, other),
        method,
        objective=objective,
        baseline=given,
    )
    return Attributed(analysis=found, attribution=why, baseline=given)


def attributed_html(done: Attributed) -> str:
    """The prompt with every token coloured by its score, and the figures."""
    why = done.attribution
    title = f"{why.title()}, by {why.method.replace('_', ' ')}"
    return (
        f'<p role="status"><b>{html.escape(title)}</b></p><p>{html.escape(caption(why))}</p>'
        f"{attribution_html(why)}"
    )


def attributed_code(done: Attributed) -> str:
    """The same in Python."""
    found, why = done.analysis, done.attribution
    ids = tuple(each.token for each in why.target)
    options: dict[str, Any] = {
        "target": ids if len(ids) == 2 else ids[0],
        "method": why.method,
        "objective": why.objective,
    }
    if done.baseline is not None:
        options["baseline"] = done.baseline
    asked = call("why = mi.attribute", "model", "prompt", **options)
    return f"{opening(found.model, found.prompt)}\n{asked}\nwhy.to_pandas()"


def attributed_saveable(done: Attributed) -> Saveable:
    """The attribution in files."""
    found, why = done.analysis, done.attribution
    return Saveable(
        name="attribution",
        view=view_attribution(why),
        table=why.to_pandas,
        about={
            "model": found.model,
            "prompt": found.prompt,
            "target": [{"id": each.token, "text": each.text} for each in why.target],
            "method": why.method,
            "objective": why.objective,
            "baseline": why.baseline,
            "value": why.value,
            "baseline_value": why.baseline_value if why.is_signed else None,
            "completeness_error": why.completeness_error if why.is_signed else None,
            "steps": why.steps,
            "n_passes": why.n_passes,
        },
    )


HELP = "Which tokens of the prompt a predicted token rests on: token {attribution}."
INVITATION = "Choose a token and a method, then Run."
METHOD = "integrated_gradients"


def attribute_panel(desk: AppContext, analysis: gr.State, analysed: Any) -> None:
    """Which tokens of the prompt a prediction rests on."""
    answer = gr.State(None, time_to_live=3600)
    with gr.Accordion("Attribute to tokens", open=False, elem_id="attribute"):
        help_text(HELP)
        with gr.Row():
            target = gr.Dropdown(
                [],
                label="Why this token",
                info="The most probable ones after the prompt.",
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
