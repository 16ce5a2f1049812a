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
    from mi_toolkit.comparison.length_sweep import length_sweep as length_sweep
    from mi_toolkit.comparison.model_comparison import ModelComparison as ModelComparison
    from mi_toolkit.comparison.models import compare_models as compare_models
    from mi_toolkit.comparison.stimuli import StimulusComparison as StimulusComparison
    from mi_toolkit.comparison.stimuli import compare_stimuli as compare_stimuli
    from mi_toolkit.comparison.sweep import LengthSweep as LengthSweep
    from mi_toolkit.generation import GeneratedSequence as GeneratedSequence
    from mi_toolkit.generation import Generation as Generation
    from mi_toolkit.generation import generate as generate
    from mi_toolkit.heads.behaviours import BEHAVIOURS as BEHAVIOURS
    from mi_toolkit.heads.behaviours import offset as offset
    from mi_toolkit.heads.classify import classify_heads as classify_heads
    from mi_toolkit.heads.control import UntrainedControl as UntrainedControl
    from mi_toolkit.heads.copying_scores import CopyingScores as CopyingScores
    from mi_toolkit.heads.copying_scores import copying_scores as copying_scores
    from mi_toolkit.heads.decorators import circuit_behaviour as circuit_behaviour
    from mi_toolkit.heads.decorators import distribution_behaviour as distribution_behaviour
    from mi_toolkit.heads.decorators import mask_behaviour as mask_behaviour
    from mi_toolkit.heads.head import Head as Head
    from mi_toolkit.heads.kinds import DistributionBehaviour as DistributionBehaviour
    from mi_toolkit.heads.kinds import MaskBehaviour as MaskBehaviour
    from mi_toolkit.heads.report import HeadReport as HeadReport
    from mi_toolkit.heads.token_maps import CircuitBehaviour as CircuitBehaviour
    from mi_toolkit.heads.token_maps import TokenMap as TokenMap
    from mi_toolkit.heads.untrained import untrained_control as untrained_control
    from mi_toolkit.interventions.ablation import ablating as ablating
    from mi_toolkit.interventions.ablation.component import Component as Component
    from mi_toolkit.interventions.confirm import Confirmation as Confirmation
    from mi_toolkit.interventions.confirm import confirm_each_head as confirm_each_head
    from mi_toolkit.interventions.confirm import confirm_heads as confirm_heads
    from mi_toolkit.interventions.effects import AblationEffect as AblationEffect
    from mi_toolkit.interventions.effects import AblationSweep as AblationSweep
    from mi_toolkit.interventions.effects import ablation_effect as ablation_effect
    from mi_toolkit.interventions.effects import ablation_sweep as ablation_sweep
    from mi_toolkit.interventions.inhibition import InhibitionEffects as InhibitionEffects
    from mi_toolkit.interventions.inhibition import s_inhibition_effects as s_inhibition_effects
    from mi_toolkit.interventions.patching import AttributionPatching as AttributionPatching
    from mi_toolkit.interventions.patching import DirectAttribution as DirectAttribution
    from mi_toolkit.interventions.patching import EdgeAttribution as EdgeAttribution
    from mi_toolkit.interventions.patching import Patching as Patching
    from mi_toolkit.interventions.patching import activation_patching as activation_patching
    from mi_toolkit.interventions.patching import attribution_patching as attribution_patching
    from mi_toolkit.interventions.patching import (
        direct_logit_attribution as direct_logit_attribution,
    )
    from mi_toolkit.interventions.patching import edge_attribution as edge_attribution
    from mi_toolkit.models.describe import describe_model as describe_model
    from mi_toolkit.models.facts import ModelFacts as ModelFacts
    from mi_toolkit.models.loading import load_model as load_model
    from mi_toolkit.models.model_spec import ModelSpec as ModelSpec
    from mi_toolkit.models.specs import MODELS as MODELS
    from mi_toolkit.pipeline import Pipeline as Pipeline
    from mi_toolkit.pipeline import trace_pipeline as trace_pipeline
    from mi_toolkit.prompts.ioi import ioi_prompts as ioi_prompts
    from mi_toolkit.prompts.needle import needle_prompts as needle_prompts
    from mi_toolkit.prompts.tokens import TokenBatch as TokenBatch
    from mi_toolkit.sensitivity.blockwise import score_blockwise as score_blockwise
    from mi_toolkit.sensitivity.dose_curve import PerturbationTest as PerturbationTest
    from mi_toolkit.sensitivity.fidelity import ScoreFidelity as ScoreFidelity
    from mi_toolkit.sensitivity.fidelity import score_fidelity as score_fidelity
    from mi_toolkit.sensitivity.perturb import perturbed as perturbed
    from mi_toolkit.sensitivity.perturbation_test import perturbation_test as perturbation_test
    from mi_toolkit.sensitivity.prompt_effect import PerturbationEffect as PerturbationEffect
    from mi_toolkit.sensitivity.prompt_effect import perturbation_effect as perturbation_effect
    from mi_toolkit.sensitivity.run_comparison import RunComparison as RunComparison
    from mi_toolkit.sensitivity.run_comparison import compare_runs as compare_runs
    from mi_toolkit.sensitivity.score import score_weights as score_weights
    from mi_toolkit.sensitivity.stability import RankingStability as RankingStability
    from mi_toolkit.sensitivity.stability import ranking_stability as ranking_stability
    from mi_toolkit.sensitivity.super_weight import SuperWeights as SuperWeights
    from mi_toolkit.sensitivity.super_weights import find_super_weights as find_super_weights
    from mi_toolkit.sensitivity.weight_scores import WeightScores as WeightScores
    from mi_toolkit.verification.verification import Verification as Verification
    from mi_toolkit.verification.verify import verify_model as verify_model
    from mi_toolkit.views.ablation import view_ablation as view_ablation
    from mi_toolkit.views.attention import view_attention as view_attention
    from mi_toolkit.views.attribution import view_attribution as view_attribution
    from mi_toolkit.views.comparison import view_comparison as view_comparison
    from mi_toolkit.views.comparison import view_stimuli as view_stimuli
    from mi_toolkit.views.comparison import view_sweep as view_sweep
    from mi_toolkit.views.confirmation import view_confirmation as view_confirmation
    from mi_toolkit.views.generation import view_generation as view_generation
    from mi_toolkit.views.page import Page as Page
    from mi_toolkit.views.patching import view_patching as view_patching
    from mi_toolkit.views.pipeline import view_pipeline as view_pipeline
    from mi_toolkit.views.position import view_position as view_position
    from mi_toolkit.views.report import view_report as view_report
    from mi_toolkit.views.run_comparison import view_runs as view_runs
    from mi_toolkit.views.sensitivity_pictures import view_fidelity as view_fidelity
    from mi_toolkit.views.statistics import view_statistics as view_statistics
    from mi_toolkit.views.untrained import view_untrained as view_untrained
    from mi_toolkit.views.verification import view_verification as view_verification
    from mi_toolkit.views.weights import view_weights as view_weights

_HOME = {
    "AttributionPatching": "interventions.patching",
    "DirectAttribution": "interventions.patching",
    "Patching": "interventions.patching",
    "EdgeAttribution": "interventions.patching",
    "activation_patching": "interventions.patching",
    "edge_attribution": "interventions.patching",
    "attribution_patching": "interventions.patching",
    "direct_logit_attribution": "interventions.patching",
    "AblationEffect": "interventions.effects",
    "AblationSweep": "interventions.effects",
    "Activations": "activations.activations",
    "ActivationStatistics": "activations.statistics",
    "activation_statistics": "activations.measure",
    "ActivationStore": "activations.store.reader",
    "open_activations": "activations.store.reader",
    "record_to_disk": "activations.store.writer",
    "Attribution": "attribution.attribution",
    "attribute": "attribution.attribute",
    "BEHAVIOURS": "heads.behaviours",
    "CircuitBehaviour": "heads.token_maps",
    "CopyingScores": "heads.copying_scores",
    "DistributionBehaviour": "heads.kinds",
    "Component": "interventions.ablation.component",
    "Confirmation": "interventions.confirm",
    "GeneratedSequence": "generation",
    "Generation": "generation",
    "Head": "heads.head",
    "HeadAtlas": "atlas.folder",
    "HeadReport": "heads.report",
    "InhibitionEffects": "interventions.inhibition",
    "LengthSweep": "comparison.sweep",
    "MODELS": "models.specs",
    "MaskBehaviour": "heads.kinds",
    "ModelComparison": "comparison.model_comparison",
    "ModelFacts": "models.facts",
    "ModelSpec": "models.model_spec",
    "Page": "views.page",
    "Pipeline": "pipeline",
    "PerturbationEffect": "sensitivity.prompt_effect",
    "PerturbationTest": "sensitivity.dose_curve",
    "RunComparison": "sensitivity.run_comparison",
    "RankingStability": "sensitivity.stability",
    "ScoreFidelity": "sensitivity.fidelity",
    "StimulusComparison": "comparison.stimuli",
    "SuperWeights": "sensitivity.super_weight",
    "TokenBatch": "prompts.tokens",
    "TokenMap": "heads.token_maps",
    "UntrainedControl": "heads.control",
    "Verification": "verification.verification",
    "WeightScores": "sensitivity.weight_scores",
    "ablating": "interventions.ablation",
    "ablation_effect": "interventions.effects",
    "ablation_sweep": "interventions.effects",
    "circuit_behaviour": "heads.decorators",
    "classify_heads": "heads.classify",
    "compare_runs": "sensitivity.run_comparison",
    "compare_models": "comparison.models",
    "compare_stimuli": "comparison.stimuli",
    "copying_scores": "heads.copying_scores",
    "confirm_each_head": "interventions.confirm",
    "confirm_heads": "interventions.confirm",
    "describe_model": "models.describe",
    "distribution_behaviour": "heads.decorators",
    "export_headvis": "atlas.headvis",
    "find_super_weights": "sensitivity.super_weights",
    "generate": "generation",
    "head_atlas": "atlas.build",
    "ioi_prompts": "prompts.ioi",
    "length_sweep": "comparison.length_sweep",
    "load_model": "models.loading",
    "mask_behaviour": "heads.decorators",
    "needle_prompts": "prompts.needle",
    "offset": "heads.behaviours",
    "perturbation_effect": "sensitivity.prompt_effect",
    "perturbation_test": "sensitivity.perturbation_test",
    "perturbed": "sensitivity.perturb",
    "ranking_stability": "sensitivity.stability",
    "record": "activations.record",
    "s_inhibition_effects": "interventions.inhibition",
    "score_fidelity": "sensitivity.fidelity",
    "score_blockwise": "sensitivity.blockwise",
    "score_weights": "sensitivity.score",
    "trace_pipeline": "pipeline",
    "untrained_control": "heads.untrained",
    "verify_model": "verification.verify",
    "view_ablation": "views.ablation",
    "view_attention": "views.attention",
    "view_attribution": "views.attribution",
    "view_comparison": "views.comparison",
    "view_confirmation": "views.confirmation",
    "view_generation": "views.generation",
    "view_pipeline": "views.pipeline",
    "view_patching": "views.patching",
    "view_position": "views.position",
    "view_report": "views.report",
    "view_stimuli": "views.comparison",
    "view_sweep": "views.comparison",
    "view_fidelity": "views.sensitivity_pictures",
    "view_runs": "views.run_comparison",
    "view_statistics": "views.statistics",
    "view_untrained": "views.untrained",
    "view_verification": "views.verification",
    "view_weights": "views.weights",
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
