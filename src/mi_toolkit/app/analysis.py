"""What Analyze finds out about a prompt, kept for the visitor's session."""

from __future__ import annotations

from dataclasses import dataclass

from mi_toolkit.app.settings import Settings
from mi_toolkit.app.shelf import model_bytes
from mi_toolkit.heads.classify import classify_heads
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.models.describe import describe_model
from mi_toolkit.models.facts import ModelFacts
from mi_toolkit.pipeline import Pipeline, trace_pipeline
from mi_toolkit.prompts.tokens import tokenise

TOP_K = 10


@dataclass(frozen=True, kw_only=True, eq=False)
class Analysis:
    """One prompt through one model, and what was asked for beside it."""

    model: str
    """The model's name, as `load_model` takes it."""

    prompt: str
    """The text."""

    num_beams: int
    """Beams to search with."""

    max_new_tokens: int
    """Tokens to write."""

    facts: ModelFacts
    """What the model is."""

    n_bytes: int
    """Memory that its weights take."""

    report: HeadReport
    """What its heads do on this prompt."""

    pipeline: Pipeline
    """The prompt's way through it."""


def analyse(
    model: HookedModel,
    name: str,
    prompt: str,
    *,
    num_beams: int,
    max_new_tokens: int,
    settings: Settings,
) -> Analysis:
    """Classify the heads on a prompt, and trace it.

    Raises:
        PromptError: no text, more of it than the server takes, or beyond the context.
    """
    settings.check_text(prompt)
    settings.check_prompt(int(tokenise(model, prompt).lengths[0]))
    report = classify_heads(model, prompt)
    return Analysis(
        model=name,
        prompt=prompt,
        num_beams=num_beams,
        max_new_tokens=max_new_tokens,
        facts=describe_model(model),
        n_bytes=model_bytes(model),
        report=report,
        pipeline=trace_pipeline(model, prompt, report=report, top_k=TOP_K),
    )
