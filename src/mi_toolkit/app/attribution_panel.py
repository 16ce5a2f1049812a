"""Which tokens the prediction rests on: what the panel runs, shows, writes as code and saves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
from markupsafe import Markup

from mi_toolkit.app.context import Analysis, Job, Session
from mi_toolkit.app.panel import (
    RELISTED,
    Builder,
    Panel,
    most_probable,
    token_choices,
    token_dropdown,
)
from mi_toolkit.app.tools import Saveable, call, opening_code
from mi_toolkit.attribution.attribute import Attribution, attribute
from mi_toolkit.attribution.methods import METHODS
from mi_toolkit.attribution.question import BASELINES, OBJECTIVES
from mi_toolkit.core.model import HookedModel
from mi_toolkit.draw.marked_text import attribution_html, caption, view_attribution

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


def attributed_html(done: Attributed) -> Markup:
    """The prompt with every token coloured by its score, and the figures."""
    why = done.attribution
    title = f"{why.title()}, by {why.method.replace('_', ' ')}"
    return Markup('<p role="status"><b>{}</b></p><p>{}</p>{}').format(
        title, caption(why), Markup(attribution_html(why))
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
    return f"{opening_code(found.model, found.prompt)}\n{asked}\nwhy.to_pandas()"


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


NO_OTHER_CHOICE = ("no other: this one by itself", NO_OTHER)
METHOD = "integrated_gradients"


def _job(
    found: Analysis, method: str, target: int, other: int, objective: str, baseline: str
) -> Job[Attributed]:
    return found.job(
        lambda model: run_attribution(
            model,
            found,
            method=method,
            target=target,
            other=other,
            objective=objective,
            baseline=baseline,
        )
    )


ATTRIBUTE = Panel(
    name="attribute",
    title="Attribute to tokens",
    help="Which tokens of the prompt a predicted token rests on: token {attribution}.",
    invitation="Choose a token and a method, then Run.",
    job=_job,
    drawings=("attribute-shown",),
    shown=lambda done: (attributed_html(done),),
    code=attributed_code,
    saveable=attributed_saveable,
)


def attribute_panel(page: Builder) -> None:
    """Which tokens of the prompt a prediction rests on."""
    with page.panel(ATTRIBUTE) as built:
        with gr.Row():
            target = token_dropdown("Why this token", "attribute-target")
            other = gr.Dropdown(
                [NO_OTHER_CHOICE],
                value=NO_OTHER,
                label="Rather than",
                info="A second token asks why this and not that.",
                elem_id="attribute-other",
                elem_classes=RELISTED,
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
        built.choices = [method, target, other, objective, baseline]
    page.when_analysed(_filled, outputs=[target, other])
    page.on(
        method.change,
        lambda _, name: (
            gr.update(info=_said(name)),
            gr.update(interactive=METHODS[name].has_baseline),
        ),
        [method],
        [method, baseline],
    )


def _said(method: str) -> str:
    measures = METHODS[method].measures
    return f"{measures[0].upper()}{measures[1:]}."


def _filled(session: Session) -> tuple[Any, ...]:
    found = session.analysed()
    choices = [NO_OTHER_CHOICE, *token_choices(found.pipeline.output.predictions)]
    return most_probable(found), gr.update(choices=choices, value=NO_OTHER)
