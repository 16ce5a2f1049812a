"""Up to four models on one prompt: what the panel runs, shows, writes as code and saves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import gradio as gr
from markupsafe import Markup

from mi_toolkit.app.context import TOP_K, Analysis, Job, Lend, Session
from mi_toolkit.app.panel import Builder, Panel
from mi_toolkit.app.settings import Settings
from mi_toolkit.app.tools import Saveable, drawing, model_box
from mi_toolkit.compare.model_comparison import ModelComparison
from mi_toolkit.compare.models import PromptReading, comparison_of, read_prompt
from mi_toolkit.core.errors import ComparisonError, unknown_name
from mi_toolkit.core.tokens import tokenise
from mi_toolkit.draw.comparison import (
    agreement_html,
    aligned_html,
    class_html,
    following_html,
    labels_html,
    models_html,
    shared_labels,
    view_comparison,
)

MOST_MODELS = 4
SECOND = "toy-qwen2"
"""Stands next to the analyzed model at first, where it is on the server."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A comparison of the guide: models that differ in one choice above all."""

    title: str
    """What is compared."""

    models: tuple[str, ...]
    """The models of the guide."""

    bundled: tuple[str, ...]
    """Those that stand in where these are not on the server; none where no bundled ones differ."""


PRESETS = {
    "positions": Preset(
        title="Positions: learned or rotary",
        models=("gpt2", "EleutherAI/pythia-160m", "Qwen/Qwen2.5-0.5B"),
        bundled=("toy-gpt2", "toy-pythia", "toy-qwen2"),
    ),
    "activation": Preset(
        title="Activation: GELU, ReLU or SiLU",
        models=("gpt2", "facebook/opt-125m", "Qwen/Qwen2.5-0.5B"),
        bundled=("toy-gpt2", "toy-opt", "toy-qwen2"),
    ),
    "norm": Preset(
        title="Norm: LayerNorm or RMSNorm",
        models=("gpt2", "Qwen/Qwen2.5-0.5B"),
        bundled=("toy-gpt2", "toy-qwen2"),
    ),
    "scale": Preset(
        title="Scale: one family, two sizes",
        models=("gpt2", "gpt2-medium", "EleutherAI/pythia-160m", "EleutherAI/pythia-410m"),
        bundled=(),
    ),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Compared:
    """Models on the analyzed prompt."""

    analysis: Analysis
    """What it began with."""

    comparison: ModelComparison
    """Their heads, and how far their predictions agree."""

    readings: Mapping[str, PromptReading]
    """What each made of the prompt."""

    label: str
    """The class of heads that is looked at."""


def run_comparison(
    lend: Lend, found: Analysis, names: Sequence[str], *, settings: Settings
) -> Compared:
    """Have each model read the prompt, one after the other: none is held while another runs.

    Raises:
        PromptError: the prompt is too long for some model's tokenizer.
        MIToolkitError: as `read_prompt` does.
    """
    readings = {}
    for name in names:
        with lend(name) as model:
            settings.check_prompt(int(tokenise(model, found.prompt).lengths[0]))
            readings[name] = read_prompt(model, found.prompt, top_k=TOP_K)
    return Compared(
        analysis=found,
        comparison=comparison_of(
            {name: each.reading for name, each in readings.items()}, [found.prompt]
        ),
        readings=readings,
        label=shared_labels(readings)[0],
    )


def compared_html(done: Compared) -> Markup:
    """How the models are built, their tokens, their predictions, and how many heads do what."""
    following = {name: each.traced.output.predictions for name, each in done.readings.items()}
    return Markup(
        '<p role="status"><b>{}</b> on the same prompt, each through its own tokenizer.</p>'
        "{}{}<h3>The most probable next tokens</h3>{}{}<h3>Heads by behaviour and depth</h3>{}"
    ).format(
        ", ".join(done.comparison.models),
        models_html(done.comparison),
        aligned_html(done.analysis.prompt, done.readings),
        following_html(following),
        agreement_html(done.comparison),
        labels_html(done.comparison),
    )


def compared_code(done: Compared) -> str:
    """The same in Python."""
    return f"""import mi_toolkit as mi

names = {list(done.comparison.models)!r}
prompt = {done.analysis.prompt!r}
readings = {{
    name: mi.compare.read_prompt(mi.load_model(name), prompt, top_k={TOP_K}) for name in names
}}
comparison = mi.compare.comparison_of(
    {{name: each.reading for name, each in readings.items()}}, [prompt]
)
mi.view(comparison)
comparison.to_pandas()"""


def compared_saveable(done: Compared) -> Saveable:
    """The comparison in files."""
    comparison = done.comparison
    pairs = comparison.agreement_table().to_dict("records")
    return Saveable(
        name="comparison",
        view=view_comparison(comparison),
        table=comparison.to_pandas,
        about={
            "models": list(comparison.models),
            "prompt": done.analysis.prompt,
            "next_tokens": {
                name: [
                    {**asdict(shown), "probability": shown.probability}
                    for shown in each.traced.output.predictions
                ]
                for name, each in done.readings.items()
            },
            "agreement": [
                {str(key): None if value != value else value for key, value in pair.items()}
                for pair in pairs
            ],
        },
    )


HELP = (
    "The same prompt through up to four models: how they are built, how each cuts the text, which "
    "{labels|label} their {heads|head} carry at which {depth}, and what each predicts. Choose a "
    "comparison, or any models."
)


def compare_panel(page: Builder) -> None:
    """Several models on the analyzed prompt."""
    settings = page.context.settings
    panel = Panel(
        name="compare",
        title="Compare models",
        help=HELP,
        invitation="Choose models, then Run.",
        job=lambda found, *typed: _job(found, settings, typed),
        drawings=("compare-shown", "compare-heads"),
        shown=lambda done: (compared_html(done), class_html(done.readings, done.label)),
        code=compared_code,
        saveable=compared_saveable,
    )
    with page.panel(panel) as built:
        presets = drawing(presets_html(settings), elem_id="compare-presets")
        with gr.Row():
            for number in range(1, MOST_MODELS + 1):
                with gr.Column(min_width=180):
                    field = model_box(
                        settings,
                        "",
                        label=f"Model {number}",
                        info="Needed." if number < 3 else "If you like.",
                        elem_id=f"compare-model-{number}",
                    )
                    built.choices.append(field)

    def label_picked(session: Session, pick: str) -> Markup:
        done = page.answer(session, panel)
        if pick not in shared_labels(done.readings):
            raise unknown_name("label", pick, shared_labels(done.readings))
        session.answers[panel.name] = replace(done, label=pick)
        return class_html(done.readings, pick)

    heads = built.drawings[1]
    page.on(heads, label_picked, outputs=heads)
    page.on(presets, lambda _, pick: _filled(preset_models(settings, pick)), outputs=built.choices)
    page.when_analysed(
        lambda session, *typed: _filled(with_first(settings, session.analysed().model, typed)),
        built.choices,
        built.choices,
    )


def _job(found: Analysis, settings: Settings, typed: Sequence[str]) -> Job[Compared]:
    names = models_named(settings, typed)
    return lambda lend: run_comparison(lend, found, names, settings=settings)


def models_named(settings: Settings, typed: Sequence[str]) -> list[str]:
    """The models that were chosen, each once.

    Raises:
        ComparisonError: fewer than two.
        MIToolkitError: as `Settings.model_named` does.
    """
    names = list(dict.fromkeys(settings.model_named(each) for each in typed if each.strip()))
    if len(names) < 2:
        raise ComparisonError("Choose two models or more, each in a field of its own.")
    return names


def with_first(settings: Settings, first: str, typed: Sequence[str]) -> list[str]:
    """The chosen models, that above among them; where one alone is left, another that is here."""
    chosen = [each for each in typed if each.strip()]
    if len(chosen) > 1 and first in chosen:
        return chosen
    others = [each for each in chosen[1:] if each != first]
    if not others:
        here = settings.here()
        listed = (*(each for each in (SECOND,) if each in here), *here, *settings.offered)
        others = [each for each in listed if each != first][:1]
    return [first, *others]


def _filled(names: Sequence[str]) -> tuple[str, ...]:
    return (*names, *[""] * MOST_MODELS)[:MOST_MODELS]


def preset_models(settings: Settings, name: str) -> tuple[str, ...]:
    """The models of a preset: those of the guide where all are here, else the bundled ones.

    Raises:
        UnknownNameError: there is no such preset.
    """
    if name not in PRESETS:
        raise unknown_name("comparison", name, PRESETS)
    preset, here = PRESETS[name], settings.here()
    if preset.bundled and not all(each in here for each in preset.models):
        return preset.bundled
    return preset.models


def presets_html(settings: Settings) -> Markup:
    """A button for each preset that this server has the models of."""
    buttons = Markup("").join(
        Markup('<button type="button" data-pick="{}" title="{}">{}</button>').format(
            name, ", ".join(preset_models(settings, name)), preset.title
        )
        for name, preset in PRESETS.items()
        if all(each in settings.offered for each in preset_models(settings, name))
    )
    return Markup('<div class="picks">{}</div>').format(buttons)
