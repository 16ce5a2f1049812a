"""Nothing that a prompt, a token, a model or a label says is ever HTML, in any view."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Container, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from markupsafe import Markup

import mi_toolkit as mi
from mi_toolkit import draw
from mi_toolkit.activations.statistics import ActivationStatistics
from mi_toolkit.atlas.build import AtlasView, Entry, Links
from mi_toolkit.attribution.attribute import Attribution
from mi_toolkit.cards.card import HeadCard
from mi_toolkit.cards.families import HeadFamilies
from mi_toolkit.compare.lengths import LengthSweep
from mi_toolkit.compare.model_comparison import ModelComparison
from mi_toolkit.compare.models import PromptReading, read_prompt
from mi_toolkit.compare.stimuli import StimulusComparison, compare_stimuli
from mi_toolkit.core.display import TextTable
from mi_toolkit.core.head import Head
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.named_axes import NamedTensor, named
from mi_toolkit.core.tokenizer import token_texts
from mi_toolkit.draw import (
    ablation,
    cards,
    comparison,
    generation,
    head_listing,
    head_maps,
    marked_text,
    markup,
    page,
    pipeline,
    weights,
)
from mi_toolkit.draw.primitives import DotStrip
from mi_toolkit.draw.view import _view
from mi_toolkit.heads.control import UntrainedControl
from mi_toolkit.interventions.confirm.confirmation import Confirmation
from mi_toolkit.interventions.direct_attribution import DirectAttribution
from mi_toolkit.interventions.effect import AblationEffect
from mi_toolkit.interventions.gradient_patching import (
    AttributionPatching,
    EdgeAttribution,
    attribution_patching,
    edge_attribution,
)
from mi_toolkit.interventions.patching import Patching
from mi_toolkit.interventions.sweep import AblationSweep
from mi_toolkit.models.planning import RunPlan
from mi_toolkit.sweeps.training import HeadDynamics
from mi_toolkit.text.generation import Generation
from mi_toolkit.text.pipeline import Pipeline
from mi_toolkit.verification.verify import Verification
from mi_toolkit.weights.fidelity import ScoreFidelity
from mi_toolkit.weights.prompt_effect import PerturbationEffect, perturbation_effect
from mi_toolkit.weights.run_comparison import Run, RunComparison
from mi_toolkit.weights.weight_scores import WeightScores
from tests.draw.made import made_view
from tests.hooked_transformer import HookedTransformer
from tests.models_here import loaded

HOSTILE = "</script><img src=x onerror=alert(1)>"
RAW, ESCAPED = "</script><i", "&lt;/script&gt;&lt;i"
"""What is seen of it where labels are cut off, too; no page has the first of its own."""

PROMPT = "When Mary and John went to the store, John gave a drink to"
CORRUPTED = "When Mary and John went to the store, Mary gave a drink to"
ASKED = {"target": " Mary", "other": " John"}
OUTSIDE = {
    PROMPT,
    CORRUPTED,
    "toy-gpt2",
    "toy-qwen2",
    "grad_x_weight",
    "prompt",
    "induction",
    "previous_token",
}
"""The prompts, the models' names, that of a stimulus and those of labels; tokens come to them."""


def hostile(value: Any, outside: Container[str] | None = None) -> Any:
    """The same result, in which whatever came from outside says what is hostile."""
    if outside is None:
        outside = frozenset(OUTSIDE | set(tokens()))
    if isinstance(value, str):
        return HOSTILE + value if value in outside else value
    if isinstance(value, NamedTensor):
        axes = [hostile(axis, outside) for axis in value.axes]
        return named(value.as_subclass(torch.Tensor), axes)
    if isinstance(value, Mapping):
        return {hostile(key, outside): hostile(each, outside) for key, each in value.items()}
    if type(value) in (tuple, list):
        return type(value)(hostile(each, outside) for each in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        other = copy.copy(value)
        for field in dataclasses.fields(value):
            said = Anything() if field.name in ("text", "texts", "prompt") else outside
            object.__setattr__(other, field.name, hostile(getattr(value, field.name), said))
        return other
    return value


class Anything:
    """What holds every word."""

    def __contains__(self, word: object) -> bool:
        return True


@cache
def tokens() -> tuple[str, ...]:
    ids = loaded("toy-gpt2").to_tokens(f"{PROMPT}{CORRUPTED}")[0].tolist()
    following = generated().sequences[0].ids.tolist()
    return token_texts(loaded("toy-gpt2").tokenizer, [*ids, *following])


@cache
def generated() -> Generation:
    return mi.generate(loaded("toy-gpt2"), PROMPT, max_new_tokens=3, num_beams=2, top_k=2)


@cache
def report() -> mi.HeadReport:
    return mi.classify_heads(loaded("toy-gpt2"), PROMPT, progress=False)


@cache
def followed() -> HeadDynamics:
    training = Path(__file__).parents[1] / "data" / "toy-training"
    found = mi.dynamics(training, [0, 1010], behaviours=["induction"])
    return dataclasses.replace(found, model=PROMPT)


@cache
def traced() -> Pipeline:
    return mi.trace_pipeline(loaded("toy-gpt2"), PROMPT, report=report())


@cache
def ablated() -> AblationEffect:
    return mi.ablation_effect(loaded("toy-gpt2"), PROMPT, ["L2H0"], n_random=2)


@cache
def attributed() -> Attribution:
    return mi.attribute(loaded("toy-gpt2"), PROMPT, " Mary", "occlusion")


@cache
def compared() -> ModelComparison:
    return mi.compare_models([loaded("toy-gpt2"), loaded("toy-qwen2")], PROMPT)


@cache
def reading() -> PromptReading:
    return hostile(read_prompt(loaded("toy-gpt2"), PROMPT))


@cache
def perturbed() -> PerturbationEffect:
    at = [("blocks.0.attn.W_Q", 0, 0)]
    return perturbation_effect(loaded("toy-gpt2"), PROMPT, at, n_random=1)


@cache
def weights_view() -> weights.WeightsView:
    scores = mi.score_weights(loaded("toy-gpt2"), PROMPT)
    view = mi.view(scores, k=3, report=report(), effect=perturbed())
    named = tuple({**row, "parameter": HOSTILE, "labels": HOSTILE} for row in view.top)
    layers = tuple({**row, "component": HOSTILE} for row in view.layers)
    return dataclasses.replace(hostile(view), top=named, layers=layers)


def runs() -> RunComparison:
    run = Run(
        name=HOSTILE, model=HOSTILE, n_parameters=1, n_layers=1, metric=HOSTILE,
        sizes={"W": 1},
        top=({"parameter": "W", "row": 0, "column": 0, "layer": 0, "component": "W_Q"},),
        effect=None,
    )  # fmt: skip
    one = torch.ones(1, 1)
    return RunComparison(metric=HOSTILE, k=1, runs=(run,), weights=one, places=one)


def model() -> HookedModel:
    return loaded("toy-gpt2")


@cache
def made_card() -> HeadCard:
    return mi.head_card(
        model(), "L2H0", [PROMPT], report=report(), how=["zero"], n_sequences=2, n_tokens=8
    )


def made_families() -> HeadFamilies:
    return mi.head_families(model(), [PROMPT, CORRUPTED, PROMPT], min_size=2, n_draws=1)


RESULTS: dict[type, Callable[[], Any]] = {
    mi.HeadReport: report,
    HeadCard: made_card,
    HeadFamilies: made_families,
    UntrainedControl: lambda: mi.untrained_control(model(), PROMPT, n=2),
    Confirmation: lambda: mi.confirm_heads(model(), {"induction": ["L2H0"]}, n_sequences=4),
    Pipeline: traced,
    Generation: generated,
    Attribution: attributed,
    Verification: lambda: mi.verify_model("toy-gpt2", model=model(), max_new_tokens=2),
    ActivationStatistics: lambda: mi.activation_statistics(model(), [PROMPT], "mlp_post"),
    WeightScores: weights_view,
    ModelComparison: compared,
    LengthSweep: lambda: mi.length_sweep(model(), [8, 16], progress=False),
    HeadDynamics: followed,
    StimulusComparison: lambda: compare_stimuli(mi.classify_heads(model(), progress=False)),
    RunComparison: runs,
    ScoreFidelity: lambda: mi.weights.score_fidelity(
        model(), mi.score_weights(model(), PROMPT), [PROMPT], n=10
    ),
    RunPlan: lambda: mi.plan("toy-gpt2", memory="4GiB"),
    AblationEffect: ablated,
    AblationSweep: lambda: mi.ablation_sweep(model(), PROMPT),
    Patching: lambda: mi.activation_patching(model(), PROMPT, CORRUPTED, **ASKED, progress=False),
    AttributionPatching: lambda: attribution_patching(model(), PROMPT, CORRUPTED, **ASKED),
    EdgeAttribution: lambda: edge_attribution(model(), PROMPT, CORRUPTED, **ASKED),
    DirectAttribution: lambda: mi.direct_logit_attribution(model(), PROMPT, **ASKED),
}


def options_of(kind: type) -> dict[str, Any]:
    return {"name": ("mlp_post", 1), "units": 3} if kind is ActivationStatistics else {}


def test_every_kind_of_result_is_tried() -> None:
    assert set(RESULTS) == set(_view.registry) - {object}


@pytest.mark.parametrize("kind", RESULTS, ids=lambda kind: kind.__name__)
def test_no_result_breaks_out_of_its_page(kind: type) -> None:
    if kind is EdgeAttribution and HookedTransformer is not None:
        pytest.skip("TransformerLens 3 knows no edges")
    found = hostile(RESULTS[kind]())
    view = found if kind is WeightScores else mi.view(found, **options_of(kind))
    views = [view, mi.view(found, 1)] if kind is Pipeline else [view]
    for each in views:
        document = mi.Page([each]).document()
        assert RAW not in document
        assert ESCAPED in document


def test_no_other_page_is_broken_out_of() -> None:
    facts = {"family": HOSTILE, "parameters": 9, "n_layers": 4, "n_heads": 4}
    entry = Entry(model=HOSTILE, facts=facts, report=hostile(report()))
    attention = made_view([HOSTILE, "b"], model=HOSTILE)
    for view in (AtlasView([entry]), Links(HOSTILE, [(HOSTILE, HOSTILE)]), attention):
        document = mi.Page([view], title=HOSTILE).document()
        assert RAW not in document
        assert ESCAPED in document


def hostile_map() -> head_maps.HeadMap:
    shown = head_maps.label_map(report())
    return dataclasses.replace(shown, title=HOSTILE, subtitle=HOSTILE, layers=(HOSTILE,) * 4)


def hostile_families() -> HeadFamilies:
    made = made_families()
    return dataclasses.replace(
        made,
        families=tuple(dataclasses.replace(each, name=HOSTILE) for each in made.families),
        relations=(HOSTILE,) * len(made.relations),
    )


STRIP = DotStrip(value=1.0, others=[0.0], said=HOSTILE, tips=[HOSTILE], colour=HOSTILE)
PARTS: dict[str, Callable[[], str]] = {
    "ablation.effect_html": lambda: ablation.effect_html(hostile(ablated())),
    "ablation.strips_html": lambda: ablation.strips_html(hostile(ablated())) + HOSTILE,
    "ablation.texts_html": lambda: ablation.texts_html([(HOSTILE, HOSTILE, HOSTILE)]),
    "marked_text.attribution_html": lambda: marked_text.attribution_html(hostile(attributed())),
    "cards.card_html": lambda: cards.card_html(hostile(made_card())),
    "cards.family_strips": lambda: cards.family_strips(hostile_families()),
    "comparison.agreement_html": lambda: comparison.agreement_html(hostile(compared())),
    "comparison.aligned_html": lambda: comparison.aligned_html(PROMPT, {HOSTILE: reading()}),
    "comparison.class_html": lambda: comparison.class_html(
        {HOSTILE: reading()}, HOSTILE + "induction"
    ),
    "comparison.following_html": lambda: comparison.following_html({HOSTILE: []}),
    "comparison.labels_html": lambda: comparison.labels_html(hostile(compared())),
    "comparison.models_html": lambda: comparison.models_html(hostile(compared())),
    "generation.beam_buttons": lambda: generation.beam_buttons(hostile(generated()), 0),
    "generation.tree_html": lambda: generation.tree_html(hostile(generated())),
    "head_listing.head_buttons": lambda: head_listing.head_buttons(hostile_map(), layers=[0]),
    "head_listing.head_html": lambda: head_listing.head_html(
        hostile(report()), hostile(traced()), Head(0, 0)
    ),
    "head_listing.label_buttons": lambda: head_listing.label_buttons(hostile(report())),
    "head_listing.listing_html": lambda: head_listing.listing_html(
        hostile(report()), HOSTILE + "induction", offer=HOSTILE
    ),
    "head_listing.pattern_html": lambda: head_listing.pattern_html(
        torch.eye(2), [HOSTILE, HOSTILE], HOSTILE
    ),
    "head_maps.map_figure": lambda: head_maps.map_figure(hostile_map()),
    "markup.bars_html": lambda: markup.bars_html(HOSTILE, hostile(ablated()).top_before),
    "markup.grid_html": lambda: markup.grid_html(pipeline.output_grid(hostile(traced()))),
    "markup.part": lambda: markup.part("facts", HOSTILE),
    "markup.pick_button": lambda: markup.pick_button(HOSTILE, HOSTILE, tip=HOSTILE, kind=HOSTILE),
    "markup.pixel_image": lambda: markup.pixel_image(torch.eye(2), said=HOSTILE, width=2, height=2),
    "markup.render": lambda: markup.render("position", bars=HOSTILE, said=HOSTILE, grid=HOSTILE),
    "markup.strip_svg": lambda: markup.strip_svg(STRIP, width=9, height=9),
    "markup.tables_html": lambda: markup.tables_html(
        TextTable(title=HOSTILE, header=[HOSTILE], rows=[[HOSTILE]]), HOSTILE, prompt=HOSTILE
    ),
    "markup.value_grid": lambda: markup.value_grid(
        torch.eye(2), down=[HOSTILE] * 2, across=[HOSTILE] * 2, said=HOSTILE, cell=9
    ),
    "markup.wide_table": lambda: markup.wide_table([HOSTILE], [[HOSTILE]]),
    "page.attention_heads": lambda: page.attention_heads(torch.eye(2)[None], [HOSTILE], [HOSTILE]),
    "page.framed": lambda: page.framed(HOSTILE, height=9),
    "page.json_in_html": lambda: page.json_in_html(HOSTILE),
    "pipeline.attention_html": lambda: pipeline.attention_html(hostile(traced())),
    "pipeline.embedding_html": lambda: pipeline.embedding_html(hostile(traced())),
    "pipeline.mlp_html": lambda: pipeline.mlp_html(hostile(traced())),
    "pipeline.output_html": lambda: pipeline.output_html(hostile(traced())),
    "pipeline.position_buttons": lambda: pipeline.position_buttons(hostile(traced()), 0),
    "pipeline.position_html": lambda: pipeline.position_html(hostile(traced()), 1, 2),
    "pipeline.tokens_html": lambda: pipeline.tokens_html(hostile(traced())),
    "weights.perturbation_html": lambda: weights.perturbation_html(hostile(perturbed())),
    "weights.shares_html": lambda: weights.shares_html(weights_view()),
    "weights.top_html": lambda: weights.top_html(weights_view(), button=HOSTILE),
}
"""Whatever gives HTML, with something hostile in all that it is given."""


def test_every_function_that_gives_html_is_tried() -> None:
    modules = [each.name for each in pkgutil.iter_modules(draw.__path__) if not each.ispkg]
    giving = {
        f"{module}.{name}"
        for module in modules
        for name, function in vars(importlib.import_module(f"{draw.__name__}.{module}")).items()
        if inspect.isfunction(function)
        and not name.startswith("_")
        and function.__module__ == f"{draw.__name__}.{module}"
        and inspect.unwrap(function).__annotations__.get("return") in ("Markup", Markup)
    }
    assert giving == set(PARTS)


@pytest.mark.parametrize("name", PARTS)
def test_no_part_of_a_page_lets_through_what_is_hostile(name: str) -> None:
    drawn = str(PARTS[name]())
    assert RAW not in drawn
    assert ESCAPED in drawn or "\\u003c/script\\u003e" in drawn
