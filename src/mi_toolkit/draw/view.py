"""`view`: any result as something to look at, in a notebook, as HTML or as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import singledispatch
from inspect import signature
from typing import Any, overload

from mi_toolkit.activations.statistics import ActivationStatistics
from mi_toolkit.attribution.attribute import Attribution
from mi_toolkit.cards.card import HeadCard
from mi_toolkit.cards.families import HeadFamilies
from mi_toolkit.compare.lengths import LengthSweep
from mi_toolkit.compare.model_comparison import ModelComparison
from mi_toolkit.compare.stimuli import StimulusComparison
from mi_toolkit.core.display import html_table
from mi_toolkit.core.errors import UnknownNameError
from mi_toolkit.core.process_state import check_arguments
from mi_toolkit.core.result import Result
from mi_toolkit.draw import figures
from mi_toolkit.draw.ablation import Found, view_ablation, view_patching
from mi_toolkit.draw.cards import view_card, view_families
from mi_toolkit.draw.comparison import (
    view_comparison,
    view_dynamics,
    view_runs,
    view_stimuli,
    view_sweep,
)
from mi_toolkit.draw.confirmation import view_confirmation, view_verification
from mi_toolkit.draw.generation import view_generation
from mi_toolkit.draw.marked_text import view_attribution, view_statistics
from mi_toolkit.draw.page import ResultView, View
from mi_toolkit.draw.pipeline import view_pipeline, view_position
from mi_toolkit.draw.report import view_report, view_untrained
from mi_toolkit.draw.sensitivity import view_fidelity
from mi_toolkit.draw.weights import WeightsView, view_weights
from mi_toolkit.heads.control import UntrainedControl
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.interventions.confirm.confirmation import Confirmation
from mi_toolkit.interventions.direct_attribution import DirectAttribution
from mi_toolkit.interventions.effect import AblationEffect
from mi_toolkit.interventions.gradient_patching import AttributionPatching, EdgeAttribution
from mi_toolkit.interventions.patching import Patching
from mi_toolkit.interventions.sweep import AblationSweep
from mi_toolkit.models.planning import RunPlan
from mi_toolkit.sweeps.training import HeadDynamics
from mi_toolkit.text.generation import Generation
from mi_toolkit.text.pipeline import Pipeline
from mi_toolkit.verification.verify import Verification
from mi_toolkit.weights.fidelity import ScoreFidelity
from mi_toolkit.weights.prompt_effect import PerturbationEffect
from mi_toolkit.weights.run_comparison import RunComparison
from mi_toolkit.weights.weight_scores import WeightScores


@overload
def view(result: UntrainedControl, report: HeadReport | None = None) -> ResultView: ...
@overload
def view(result: Pipeline, position: int | None = None, *, top_k: int = 5) -> ResultView: ...
@overload
def view(result: ActivationStatistics, name: Any, units: Any = None) -> ResultView: ...
@overload
def view(
    result: WeightScores,
    k: int = 20,
    *,
    report: HeadReport | None = None,
    effect: PerturbationEffect | None = None,
) -> WeightsView: ...
@overload
def view(
    result: HeadReport
    | HeadCard
    | HeadFamilies
    | Confirmation
    | Generation
    | Attribution
    | Verification
    | AblationEffect
    | AblationSweep
    | Found
    | ModelComparison
    | LengthSweep
    | HeadDynamics
    | StimulusComparison
    | RunComparison
    | ScoreFidelity
    | RunPlan,
) -> ResultView: ...
def view(result: Any, *how: Any, **options: Any) -> View:
    """A result as something to look at: in a notebook as the last line of a cell, or saved.

    Args:
        result: what a function of the library returned.
        how: what its kind of view asks for: the `position` of a pipeline whose predictions are
            wanted, the `name` and `units` of statistics, how many of the highest weights.
        options: the same by name: `report`, next to which an untrained control or scores of weights
            are shown; `effect`, what perturbing them did; `top_k` predictions.

    Returns:
        A view: it shows itself in a notebook; `save_html` writes a page that needs no network,
        `save_png` and `save_svg` a picture where it has one. `Page` puts several on one page.

    Raises:
        UnknownNameError: there is no view of such a thing; the message says what to view instead.
        TypeError: something in `how` or `options` that its kind of view does not ask for.

    Example:
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> traced = mi.trace_pipeline(model, "one two three one two")
        >>> mi.view(traced)
        View of From text to prediction: toy-gpt2 on 15 tokens
        >>> mi.view(traced, position=1)
        View of What toy-gpt2 predicts after token 1, on
    """
    _check_asked(result, how, options)
    return _view(result, *how, **options)


def _check_asked(result: Any, how: Sequence[Any], options: Mapping[str, Any]) -> None:
    """Check what is asked of a view against what the result's kind of view takes.

    Raises:
        TypeError: it takes nothing of the kind; in the words of `view`, which was called.
    """
    drawing = _view.dispatch(type(result))
    if drawing is _view.dispatch(object):
        return
    parameters = signature(drawing).parameters
    if len(parameters) == 1 and (how or options):
        way = (
            " mi.head_card(model, 'L0H0') is about one head, and report.heads('induction') lists "
            "those of a behaviour."
            if isinstance(result, HeadReport)
            else ""
        )
        raise TypeError(f"view() takes a {type(result).__name__} alone, and shows all of it.{way}")
    check_arguments("view", parameters, [result, *how], options)


@singledispatch
def _view(result: Any, *_: Any, **__: Any) -> View:
    if hasattr(result, "hook_dict"):
        raise UnknownNameError(
            "A model is no result: mi.view(mi.classify_heads(model)) shows what its heads do, "
            "mi.view_attention(model, prompt) where they look."
        )
    name = type(result).__name__
    if isinstance(result, PerturbationEffect):
        raise UnknownNameError(
            f"A {name} is shown next to the scores of its weights: mi.view(scores, effect=…)."
        )
    if isinstance(result, Result):
        raise UnknownNameError(
            f"{name} is a table: print it, or take its to_pandas(). It has no other view."
        )
    if isinstance(result, list | tuple) and any(isinstance(each, Result) for each in result):
        raise UnknownNameError(
            f"These are {len(result)} results: view each, and put the views on one page with "
            "mi.Page."
        )
    raise UnknownNameError(
        f"There is no view of what is of type {name}: mi.view takes what a function of the library "
        "returned, mi.view_attention a model and a prompt, or recorded patterns."
    )


def _view_pipeline(traced: Pipeline, position: int | None = None, *, top_k: int = 5) -> View:
    if position is None:
        return view_pipeline(traced)
    return view_position(traced, position, top_k=top_k)


def _view_plan(plan: RunPlan) -> ResultView:
    rows = plan.cells()
    return ResultView(
        title=plan.title(),
        caption=(
            "What will be done before anything is loaded, by the model's config alone. Peak memory "
            "is that of a process of its own; time is what arithmetic and reading take here at the "
            "least, by rates that were measured for it."
        ),
        body=lambda: html_table((), rows),
        draw=lambda: figures.plan_figure(plan),
        height=160 + 44 * len(rows),
    )


_view.register(HeadReport)(view_report)
_view.register(HeadCard)(view_card)
_view.register(HeadFamilies)(view_families)
_view.register(UntrainedControl)(view_untrained)
_view.register(Confirmation)(view_confirmation)
_view.register(Pipeline)(_view_pipeline)
_view.register(Generation)(view_generation)
_view.register(Attribution)(view_attribution)
_view.register(Verification)(view_verification)
_view.register(ActivationStatistics)(view_statistics)
_view.register(WeightScores)(view_weights)
_view.register(ModelComparison)(view_comparison)
_view.register(LengthSweep)(view_sweep)
_view.register(HeadDynamics)(view_dynamics)
_view.register(StimulusComparison)(view_stimuli)
_view.register(RunComparison)(view_runs)
_view.register(ScoreFidelity)(view_fidelity)
_view.register(RunPlan)(_view_plan)
for _ablated in (AblationEffect, AblationSweep):
    _view.register(_ablated)(view_ablation)
for _patched in (Patching, AttributionPatching, EdgeAttribution, DirectAttribution):
    _view.register(_patched)(view_patching)
