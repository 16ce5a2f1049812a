"""Mechanistic interpretability of language models: load, classify heads, see.

Names are imported when they are first used, so that `import mi_toolkit` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mi_toolkit.activations.activations import Activations as Activations
    from mi_toolkit.activations.measure import activation_statistics as activation_statistics
    from mi_toolkit.activations.record import record as record
    from mi_toolkit.activations.statistics import ActivationStatistics as ActivationStatistics
    from mi_toolkit.activations.store.reader import ActivationStore as ActivationStore
    from mi_toolkit.activations.store.reader import open_activations as open_activations
    from mi_toolkit.activations.store.writer import record_to_disk as record_to_disk
    from mi_toolkit.atlas.build import head_atlas as head_atlas
    from mi_toolkit.atlas.folder import HeadAtlas as HeadAtlas
    from mi_toolkit.atlas.headvis import export_headvis as export_headvis
    from mi_toolkit.attribution.attribute import attribute as attribute
    from mi_toolkit.attribution.attribution import Attribution as Attribution
    from mi_toolkit.compare.length_sweep import LengthSweep as LengthSweep
    from mi_toolkit.compare.length_sweep import length_sweep as length_sweep
    from mi_toolkit.compare.model_comparison import ModelComparison as ModelComparison
    from mi_toolkit.compare.models import compare_models as compare_models
    from mi_toolkit.compare.stimuli import StimulusComparison as StimulusComparison
    from mi_toolkit.compare.stimuli import compare_stimuli as compare_stimuli
    from mi_toolkit.core.head import Head as Head
    from mi_toolkit.core.stimuli import ioi_prompts as ioi_prompts
    from mi_toolkit.core.stimuli import needle_prompts as needle_prompts
    from mi_toolkit.core.tokens import TokenBatch as TokenBatch
    from mi_toolkit.draw.attention import view_attention as view_attention
    from mi_toolkit.draw.page import Page as Page
    from mi_toolkit.draw.view import view as view
    from mi_toolkit.heads.behaviours import BEHAVIOURS as BEHAVIOURS
    from mi_toolkit.heads.behaviours import circuit_behaviour as circuit_behaviour
    from mi_toolkit.heads.behaviours import distribution_behaviour as distribution_behaviour
    from mi_toolkit.heads.behaviours import mask_behaviour as mask_behaviour
    from mi_toolkit.heads.behaviours import offset as offset
    from mi_toolkit.heads.classify import classify_heads as classify_heads
    from mi_toolkit.heads.control import UntrainedControl as UntrainedControl
    from mi_toolkit.heads.copying_scores import CopyingScores as CopyingScores
    from mi_toolkit.heads.copying_scores import copying_scores as copying_scores
    from mi_toolkit.heads.kinds import CircuitBehaviour as CircuitBehaviour
    from mi_toolkit.heads.kinds import DistributionBehaviour as DistributionBehaviour
    from mi_toolkit.heads.kinds import MaskBehaviour as MaskBehaviour
    from mi_toolkit.heads.kinds import TokenMap as TokenMap
    from mi_toolkit.heads.report import HeadReport as HeadReport
    from mi_toolkit.heads.untrained import untrained_control as untrained_control
    from mi_toolkit.interventions.ablation import ablating as ablating
    from mi_toolkit.interventions.attribution_patching import (
        AttributionPatching as AttributionPatching,
    )
    from mi_toolkit.interventions.attribution_patching import EdgeAttribution as EdgeAttribution
    from mi_toolkit.interventions.attribution_patching import (
        attribution_patching as attribution_patching,
    )
    from mi_toolkit.interventions.attribution_patching import edge_attribution as edge_attribution
    from mi_toolkit.interventions.components import Component as Component
    from mi_toolkit.interventions.confirm.confirmation import Confirmation as Confirmation
    from mi_toolkit.interventions.confirm.label_sets import confirm_each_head as confirm_each_head
    from mi_toolkit.interventions.confirm.label_sets import confirm_heads as confirm_heads
    from mi_toolkit.interventions.direct_attribution import DirectAttribution as DirectAttribution
    from mi_toolkit.interventions.direct_attribution import (
        direct_logit_attribution as direct_logit_attribution,
    )
    from mi_toolkit.interventions.effect import ablation_effect as ablation_effect
    from mi_toolkit.interventions.effect_result import AblationEffect as AblationEffect
    from mi_toolkit.interventions.inhibition import InhibitionEffects as InhibitionEffects
    from mi_toolkit.interventions.inhibition import s_inhibition_effects as s_inhibition_effects
    from mi_toolkit.interventions.patching import Patching as Patching
    from mi_toolkit.interventions.patching import (
        activation_patching as activation_patching,
    )
    from mi_toolkit.interventions.sweep import AblationSweep as AblationSweep
    from mi_toolkit.interventions.sweep import ablation_sweep as ablation_sweep
    from mi_toolkit.models.describe import describe_model as describe_model
    from mi_toolkit.models.facts import ModelFacts as ModelFacts
    from mi_toolkit.models.load import load_model as load_model
    from mi_toolkit.models.specs import MODELS as MODELS
    from mi_toolkit.models.specs import ModelSpec as ModelSpec
    from mi_toolkit.text.generate import generate as generate
    from mi_toolkit.text.generation import GeneratedSequence as GeneratedSequence
    from mi_toolkit.text.generation import Generation as Generation
    from mi_toolkit.text.pipeline import Pipeline as Pipeline
    from mi_toolkit.text.trace import trace_pipeline as trace_pipeline
    from mi_toolkit.verification.verify import Verification as Verification
    from mi_toolkit.verification.verify import verify_model as verify_model
    from mi_toolkit.weights.evaluate_scores import PerturbationTest as PerturbationTest
    from mi_toolkit.weights.evaluate_scores import perturbation_test as perturbation_test
    from mi_toolkit.weights.fidelity import ScoreFidelity as ScoreFidelity
    from mi_toolkit.weights.fidelity import score_fidelity as score_fidelity
    from mi_toolkit.weights.perturb import perturbed as perturbed
    from mi_toolkit.weights.prompt_effect import PerturbationEffect as PerturbationEffect
    from mi_toolkit.weights.prompt_effect import perturbation_effect as perturbation_effect
    from mi_toolkit.weights.run_comparison import RunComparison as RunComparison
    from mi_toolkit.weights.run_comparison import compare_runs as compare_runs
    from mi_toolkit.weights.score import score_blockwise as score_blockwise
    from mi_toolkit.weights.score import score_weights as score_weights
    from mi_toolkit.weights.stability import RankingStability as RankingStability
    from mi_toolkit.weights.stability import ranking_stability as ranking_stability
    from mi_toolkit.weights.super_weight import SuperWeights as SuperWeights
    from mi_toolkit.weights.super_weights import find_super_weights as find_super_weights
    from mi_toolkit.weights.weight_scores import WeightScores as WeightScores

_HOME = {
    "AttributionPatching": "interventions.attribution_patching",
    "DirectAttribution": "interventions.direct_attribution",
    "Patching": "interventions.patching",
    "EdgeAttribution": "interventions.attribution_patching",
    "activation_patching": "interventions.patching",
    "edge_attribution": "interventions.attribution_patching",
    "attribution_patching": "interventions.attribution_patching",
    "direct_logit_attribution": "interventions.direct_attribution",
    "AblationEffect": "interventions.effect_result",
    "AblationSweep": "interventions.sweep",
    "Activations": "activations.activations",
    "ActivationStatistics": "activations.statistics",
    "activation_statistics": "activations.measure",
    "ActivationStore": "activations.store.reader",
    "open_activations": "activations.store.reader",
    "record_to_disk": "activations.store.writer",
    "Attribution": "attribution.attribution",
    "attribute": "attribution.attribute",
    "BEHAVIOURS": "heads.behaviours",
    "CircuitBehaviour": "heads.kinds",
    "CopyingScores": "heads.copying_scores",
    "DistributionBehaviour": "heads.kinds",
    "Component": "interventions.components",
    "Confirmation": "interventions.confirm.confirmation",
    "GeneratedSequence": "text.generation",
    "Generation": "text.generation",
    "Head": "core.head",
    "HeadAtlas": "atlas.folder",
    "HeadReport": "heads.report",
    "InhibitionEffects": "interventions.inhibition",
    "LengthSweep": "compare.length_sweep",
    "MODELS": "models.specs",
    "MaskBehaviour": "heads.kinds",
    "ModelComparison": "compare.model_comparison",
    "ModelFacts": "models.facts",
    "ModelSpec": "models.specs",
    "Page": "draw.page",
    "Pipeline": "text.pipeline",
    "PerturbationEffect": "weights.prompt_effect",
    "PerturbationTest": "weights.evaluate_scores",
    "RunComparison": "weights.run_comparison",
    "RankingStability": "weights.stability",
    "ScoreFidelity": "weights.fidelity",
    "StimulusComparison": "compare.stimuli",
    "SuperWeights": "weights.super_weight",
    "TokenBatch": "core.tokens",
    "TokenMap": "heads.kinds",
    "UntrainedControl": "heads.control",
    "Verification": "verification.verify",
    "WeightScores": "weights.weight_scores",
    "ablating": "interventions.ablation",
    "ablation_effect": "interventions.effect",
    "ablation_sweep": "interventions.sweep",
    "circuit_behaviour": "heads.behaviours",
    "classify_heads": "heads.classify",
    "compare_runs": "weights.run_comparison",
    "compare_models": "compare.models",
    "compare_stimuli": "compare.stimuli",
    "copying_scores": "heads.copying_scores",
    "confirm_each_head": "interventions.confirm.label_sets",
    "confirm_heads": "interventions.confirm.label_sets",
    "describe_model": "models.describe",
    "distribution_behaviour": "heads.behaviours",
    "export_headvis": "atlas.headvis",
    "find_super_weights": "weights.super_weights",
    "generate": "text.generate",
    "head_atlas": "atlas.build",
    "ioi_prompts": "core.stimuli",
    "length_sweep": "compare.length_sweep",
    "load_model": "models.load",
    "mask_behaviour": "heads.behaviours",
    "needle_prompts": "core.stimuli",
    "offset": "heads.behaviours",
    "perturbation_effect": "weights.prompt_effect",
    "perturbation_test": "weights.evaluate_scores",
    "perturbed": "weights.perturb",
    "ranking_stability": "weights.stability",
    "record": "activations.record",
    "s_inhibition_effects": "interventions.inhibition",
    "score_fidelity": "weights.fidelity",
    "score_blockwise": "weights.score",
    "score_weights": "weights.score",
    "trace_pipeline": "text.trace",
    "untrained_control": "heads.untrained",
    "verify_model": "verification.verify",
    "view": "draw.view",
    "view_attention": "draw.attention",
}

__all__ = [
    *_HOME,
]


def __getattr__(name: str) -> Any:
    if name == "app":  # so that `mi_toolkit.app.build()` needs no import of its own
        return import_module("mi_toolkit.app")
    if name not in _HOME:
        raise AttributeError(f"module 'mi_toolkit' has no attribute {name!r}")
    return getattr(import_module(f"mi_toolkit.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
