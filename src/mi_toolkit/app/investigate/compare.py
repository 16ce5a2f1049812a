"""A second model on the same prompt: what the panel runs, shows, writes as code and saves."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from mi_toolkit.app.analysis import TOP_K, Analysis
from mi_toolkit.app.settings import Settings
from mi_toolkit.app.tools import Saveable
from mi_toolkit.comparison.model_comparison import ModelComparison
from mi_toolkit.comparison.models import compare_models
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.pipeline import trace_pipeline
from mi_toolkit.predictions import Prediction
from mi_toolkit.prompts.tokens import tokenise
from mi_toolkit.views.comparison import models_html, view_comparison
from mi_toolkit.views.comparison_sides import agreement_text, following_html, labels_html


@dataclass(frozen=True, kw_only=True, eq=False)
class Compared:
    """The analyzed model and another one on the same prompt."""

    analysis: Analysis
    """What it began with."""

    comparison: ModelComparison
    """Their heads, and how far their predictions agree."""

    following: Mapping[str, tuple[Prediction, ...]]
    """Each model's most probable tokens behind the prompt."""


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
