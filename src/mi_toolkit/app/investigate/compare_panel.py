"""The panel that sets a second model beside the first."""

from __future__ import annotations

from typing import Any

import gradio as gr

from mi_toolkit.app.analysis import Analysis
from mi_toolkit.app.desk import Desk, shown_error
from mi_toolkit.app.glossary import help_text
from mi_toolkit.app.investigate.compare import (
    Compared,
    compared_code,
    compared_html,
    compared_saveable,
    run_comparison,
)
from mi_toolkit.app.investigate.experiment import (
    FIRST,
    analysed_or_told,
    if_fresh,
    keep_fresh,
    note,
)
from mi_toolkit.app.picking import drawing
from mi_toolkit.app.settings import Settings
from mi_toolkit.app.tools import tools
from mi_toolkit.errors import ComparisonError, MIToolkitError

HELP = (
    "The same prompt through a second model: what each makes of it, which {labels|label} its "
    "{heads|head} carry, and at which {depth}."
)
INVITATION = "Choose a second model, then Run."
SECOND = "toy-qwen2"


def compare_panel(desk: Desk, analysis: gr.State, analysed: Any) -> None:
    """The same prompt through another model."""
    settings = desk.settings
    answer = gr.State(None, time_to_live=3600)
    with gr.Accordion("Compare with another model", open=False, elem_id="compare"):
        help_text(HELP)
        second = gr.Dropdown(
            list(settings.offered),
            value=SECOND if SECOND in settings.offered else settings.offered[-1],
            allow_custom_value=not settings.allow_models,
            label="Second model",
            info="The prompt and the first model are those above.",
            elem_id="compare-model",
        )
        button = gr.Button("Run", variant="primary", interactive=False, elem_id="compare-run")
        shown = drawing(note(FIRST), elem_id="compare-shown")
        code = tools("compare", [answer], if_fresh(compared_saveable))

    def run(
        found: Analysis | None,
        typed: str,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(track_tqdm=True),  # noqa: B008
    ) -> tuple[Compared, str, str]:
        began = analysed_or_told(found)
        try:
            other = second_model(settings, began.model, typed or "")
        except MIToolkitError as error:
            raise shown_error(error) from error
        done = desk.run_together(
            lambda models: run_comparison(models, began, other, settings=settings),
            models=[began.model, other],
            request=request,
            progress=progress,
        )
        return done, compared_html(done), compared_code(done)

    ran = button.click(
        run,
        inputs=[analysis, second],
        outputs=[answer, shown, code],
        api_visibility="private",
        concurrency_limit=8,
        concurrency_id="models",
    )
    analysed.success(
        lambda found, typed: (another(settings, found.model, typed), gr.update(interactive=True)),
        inputs=[analysis, second],
        outputs=[second, button],
        api_visibility="private",
    )
    keep_fresh(analysis, analysed, ran, answer, [shown, code], INVITATION)


def another(settings: Settings, first: str, chosen: str) -> str:
    """The model that was chosen as second, unless it is the first: then one that is here."""
    if chosen != first:
        return chosen
    others = [name for name in (*settings.here(), *settings.offered) if name != first]
    return others[0] if others else chosen


def second_model(settings: Settings, first: str, typed: str) -> str:
    """The name of another model than the first.

    Raises:
        ComparisonError: it is the first.
        MIToolkitError: as `Settings.model_named` does.
    """
    other = settings.model_named(typed)
    if other == first:
        raise ComparisonError(f"{first} is the model above. Choose another one beside it.")
    return other
