"""A second model on the same prompt: what the panel runs, shows, writes as code and saves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from markupsafe import Markup

from mi_toolkit.app.context import TOP_K, Analysis, Job
from mi_toolkit.app.model_box import model_box
from mi_toolkit.app.panel import Builder, Panel
from mi_toolkit.app.settings import Settings
from mi_toolkit.app.tools import Saveable
from mi_toolkit.compare.model_comparison import ModelComparison
from mi_toolkit.compare.models import compare_models
from mi_toolkit.core.errors import ComparisonError
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


def compared_html(done: Compared) -> Markup:
    """Heads, depth and next tokens of both."""
    return Markup(
        '<p role="status"><b>{}</b> on the same prompt, each through its own tokenizer.</p>'
        "<h3>The most probable next tokens</h3>{}<p>{}</p><h3>Heads by behaviour</h3>{}{}"
    ).format(
        " and ".join(done.comparison.models),
        Markup(following_html(done.following)),
        agreement_text(done.comparison),
        Markup(labels_html(done.comparison)),
        Markup(models_html(done.comparison)),
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
SECOND = "toy-qwen2"


def _job(found: Analysis, settings: Settings, typed: str) -> Job[Compared]:
    other = second_model(settings, found.model, typed)
    return Job(
        models=(found.model, other),
        work=lambda models: run_comparison(models, found, other, settings=settings),
    )


def compare_panel(page: Builder) -> None:
    """The same prompt through another model."""
    settings = page.context.settings
    panel = Panel(
        name="compare",
        title="Compare with another model",
        help=HELP,
        invitation="Choose a second model, then Run.",
        job=lambda found, typed: _job(found, settings, typed),
        drawings=("compare-shown",),
        shown=lambda done: (compared_html(done),),
        code=compared_code,
        saveable=compared_saveable,
    )
    with page.panel(panel) as built:
        second = model_box(
            settings,
            SECOND if SECOND in settings.offered else settings.offered[-1],
            label="Second model",
            info="The prompt and the first model are those above.",
            elem_id="compare-model",
        )
        built.choices = [second]
    page.when_analysed(
        lambda session, typed: another(settings, session.analysed().model, typed),
        [second],
        [second],
    )


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
