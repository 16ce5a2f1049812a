"""A second model on the same prompt: what the panel runs, shows, writes as code and saves."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import gradio as gr

from mi_toolkit.app.context import TOP_K, Analysis, AppContext, shown_error
from mi_toolkit.app.glossary import help_text
from mi_toolkit.app.investigate.experiment import (
    FIRST,
    analysed_or_told,
    if_fresh,
    keep_fresh,
    note,
)
from mi_toolkit.app.settings import Settings
from mi_toolkit.app.tools import Saveable, drawing, tools
from mi_toolkit.compare.model_comparison import ModelComparison
from mi_toolkit.compare.models import compare_models
from mi_toolkit.core.errors import ComparisonError, MIToolkitError
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.predictions import Prediction
from mi_toolkit.core.tokens import tokenise
from mi_toolkit.draw.comparison import (
    agreement_text,
    following_html,
    labels_html,
    models_html,
    view_comparison,
)
from mi_toolkit.text.trace import trace_pipeline


@dataclass(frozen=True, kw_only=True, eq=False)
class Compared:
    """The analyzed model and another one on the same prompt."""

    analysis: Analysis
    """What it began with."""

    comparison: ModelComparison
    """Their heads, and how far their predictions agree."""

    following: Mapping[str, tuple[Prediction, ...]]
    """Each model's most probable tokens after the prompt."""


def run_comparison(
    models: Mapping[str, HookedModel], found: Analysis, other: str, *, settings: Settings
) -> Compared:
    """Compare the analyzed model with another one.

    Raises:
        PromptError: the prompt is too long for the other's tokenizer.
        MIToolkitError: as `compare_models` does.
    """
    settings.check_prompt(int(tokenise(models[other], found.prompt).lengths[0]))
    pair = {name: models[name] for name in (found.model, other)}
    comparison = compare_models(pair, found.prompt)
    following = {found.model: found.pipeline.output.predictions}
    traced = trace_pipeline(
        models[other], found.prompt, report=comparison.reports[other], top_k=TOP_K
    )
    following[other] = traced.output.predictions
    return Compared(analysis=found, comparison=comparison, following=following)


def compared_html(done: Compared) -> str:
    """Heads, depth and next tokens of both."""
    names = " and ".join(done.comparison.models)
    return (
        f'<p role="status"><b>{html.escape(names)}</b> on the same prompt, each through its own '
        f"tokenizer.</p><h3>The most probable next tokens</h3>{following_html(done.following)}"
        f"<p>{html.escape(agreement_text(done.comparison))}</p><h3>Heads by behaviour</h3>"
        f"{labels_html(done.comparison)}{models_html(done.comparison)}"
    )


def compared_code(done: Compared) -> str:
    """The same in Python."""
    return f"""import mi_toolkit as mi

models = {{name: mi.load_model(name) for name in {done.comparison.models!r}}}
prompt = {done.analysis.prompt!r}
comparison = mi.compare_models(models, prompt)
following = {{
    name: mi.trace_pipeline(
        model, prompt, report=comparison.reports[name], top_k={TOP_K}
    ).output.predictions
    for name, model in models.items()
}}
comparison.to_pandas()"""


def compared_saveable(done: Compared) -> Saveable:
    """The comparison in files."""
    found, comparison = done.analysis, done.comparison
    pair = comparison.agreement_table().to_dict("records")[0]
    return Saveable(
        name="comparison",
        view=view_comparison(comparison),
        table=comparison.to_pandas,
        about={
            "models": list(comparison.models),
            "prompt": found.prompt,
            "next_tokens": {
                name: [{**asdict(each), "probability": each.probability} for each in predictions]
                for name, predictions in done.following.items()
            },
            "agreement": {
                str(key): None if value != value else value for key, value in pair.items()
            },
        },
    )


HELP = (
    "The same prompt through a second model: what each makes of it, which {labels|label} its "
    "{heads|head} carry, and at which {depth}."
)
INVITATION = "Choose a second model, then Run."
SECOND = "toy-qwen2"


def compare_panel(desk: AppContext, analysis: gr.State, analysed: Any) -> None:
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
        raise ComparisonError(f"{first} is the model above. Choose another one next to it.")
    return other
