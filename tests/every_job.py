"""Every public function that reports figures of a model, called on a few tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import mi_toolkit as mi
from mi_toolkit.core.model import HookedModel

PROMPT = "Mary and John went to the store, John gave a drink to"
CLEAN, CORRUPTED = "Mary and John went to", "Mary and John went in"
TEXTS = ["The cat sat on the mat.", "Mary and John went to the store."]
WEIGHT = ("blocks.0.attn.W_O", 3, 5)

TRAINING = Path(__file__).parent / "data" / "toy-training"

Job = Callable[[HookedModel, Path], Any]


def _first_share(rows: Any, following: Any) -> tuple[Tensor, Tensor]:
    share = rows.patterns[..., 0]
    return share, torch.ones_like(share)


WHOLE_ROWS = mi.heads.DistributionBehaviour(
    name="first_share",
    meaning="attention on the first token",
    trigger="any text",
    terms=_first_share,
)
"""Asks for patterns whole, and not in blocks of queries."""


def _scored(metric: str) -> Job:
    return lambda model, _: mi.score_weights(
        model, TEXTS, metric, layers=[0], n_probes=2, n_steps=2
    )


JOBS: Mapping[str, Job] = {
    "classify_heads": lambda model, _: mi.classify_heads(model, [PROMPT, CLEAN]),
    "classify_heads, whole patterns": lambda model, _: mi.classify_heads(
        model, PROMPT, behaviours=["previous_token", "induction", WHOLE_ROWS]
    ),
    "copying_scores": lambda model, _: mi.heads.copying_scores(model),
    "profile_heads": lambda model, _: mi.cards.profile_heads(model, TEXTS),
    "head_card": lambda model, _: mi.head_card(
        model,
        "L2H0",
        TEXTS,
        report=mi.classify_heads(model, PROMPT),
        how=("zero", "resample"),
        n_sequences=3,
        n_tokens=12,
    ),
    "head_families": lambda model, _: mi.head_families(
        model, [*TEXTS, PROMPT], min_size=2, n_draws=2
    ),
    "confirm_heads": lambda model, _: mi.confirm_heads(
        model, {"induction": ["L2H0"]}, n_sequences=4
    ),
    "record": lambda model, _: mi.record(model, PROMPT, ["resid_post", "pattern"]),
    "record_to_disk": lambda model, path: mi.record_to_disk(
        model, TEXTS, "blocks.2.mlp.hook_post", path / "store", progress=False
    ).read("blocks.2.mlp.hook_post", slice(None)),
    "activation_statistics": lambda model, _: mi.activation_statistics(model, TEXTS, "mlp_post"),
    "trace_pipeline": lambda model, _: mi.trace_pipeline(model, PROMPT),
    "trace_and_classify": lambda model, _: mi.text.trace_and_classify(model, PROMPT),
    "view_attention": lambda model, _: mi.view_attention(model, PROMPT, layer=3),
    "generate": lambda model, _: mi.generate(model, PROMPT, max_new_tokens=4),
    "generate, beams": lambda model, _: mi.generate(model, PROMPT, max_new_tokens=4, num_beams=2),
    "attribute": lambda model, _: mi.attribute(model, CLEAN, " the"),
    "attribute, occlusion": lambda model, _: mi.attribute(model, CLEAN, " the", "occlusion"),
    "direct_logit_attribution": lambda model, _: mi.direct_logit_attribution(model, PROMPT),
    "ablation_effect": lambda model, _: mi.ablation_effect(model, PROMPT, ["L0H1"], how="mean"),
    "ablation_sweep": lambda model, _: mi.ablation_sweep(model, CLEAN),
    "activation_patching": lambda model, _: mi.activation_patching(
        model, CLEAN, CORRUPTED, target=" the"
    ),
    "attribution_patching": lambda model, _: mi.interventions.attribution_patching(
        model, CLEAN, CORRUPTED, target=" the"
    ),
    **{
        f"score_weights, {metric}": _scored(metric)
        for metric in ("grad_x_weight", "fisher", "hessian_diag", "wanda", "random")
    },
    "score_weights, weight_integrated_gradients": _scored("weight_integrated_gradients"),
    "perturbation_effect": lambda model, _: mi.weights.perturbation_effect(
        model, PROMPT, [WEIGHT], "gaussian", n_random=1, max_new_tokens=0
    ),
    "find_super_weights": lambda model, _: mi.find_super_weights(model, TEXTS, search=TEXTS),
    "compare_models": lambda model, _: mi.compare_models({"one": model, "other": model}, TEXTS),
}
"""By name; the folder is for what writes files."""


FURTHER: Mapping[str, Job] = {
    "plan": lambda model, _: mi.plan("toy-gpt2", memory="4GiB"),
    "untrained_control": lambda model, _: mi.untrained_control(model, PROMPT, n=2),
    "compare_stimuli": lambda model, _: mi.compare.compare_stimuli(
        {"one": mi.classify_heads(model, TEXTS), "other": mi.classify_heads(model, PROMPT)}
    ),
    "length_sweep": lambda model, _: mi.compare.length_sweep(model, [8, 16], n_sequences=4),
    "edge_attribution": lambda model, _: mi.interventions.edge_attribution(
        model, CLEAN, CORRUPTED, target=" the"
    ),
    "dynamics": lambda model, _: mi.dynamics(TRAINING, [0, 1010], behaviours=["induction"]),
    "s_inhibition_effects": lambda model, _: mi.interventions.s_inhibition_effects(
        model, ["L1H0"], ["L2H0"], prompts=mi.core.ioi_prompts(model, n_prompts=4)
    ),
    "verify_model": lambda model, _: mi.verify_model("toy-gpt2", model=model, max_new_tokens=1),
    "perturbation_test": lambda model, _: mi.weights.perturbation_test(
        model, mi.score_weights(model, TEXTS, "magnitude"), TEXTS, k=[10], controls=[]
    ),
    "score_fidelity": lambda model, _: mi.weights.score_fidelity(
        model, mi.score_weights(model, TEXTS, "grad_x_weight"), TEXTS, n=12
    ),
    "ranking_stability": lambda model, _: mi.weights.ranking_stability(
        model, TEXTS * 2, metrics=["magnitude", "grad_x_weight"], k=[10], seeds=[0, 1]
    ),
}
"""Jobs that are made of those above, or take longer."""


def figures_of(found: Any) -> Any:
    """All that a result holds of numbers and words, in plain containers; no model."""
    if isinstance(found, nn.Module):
        return None
    if dataclasses.is_dataclass(found) and not isinstance(found, type):
        return {f.name: figures_of(getattr(found, f.name)) for f in dataclasses.fields(found)}
    if isinstance(found, Mapping):
        return {str(key): figures_of(value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [figures_of(each) for each in found]
    return found if isinstance(found, Tensor | float | int | str | bool) else None


def differences(one: Any, other: Any, at: str = "", *, relative: float = 0.0) -> list[str]:
    """Where two results' figures differ in value or dtype; NaN equals NaN.

    Tensors may lie apart by `relative` of their largest value, single figures by it of theirs.
    """
    if isinstance(one, dict):
        assert one.keys() == other.keys(), at
        pairs = [(f"{at}.{key}", one[key], other[key]) for key in one]
    elif isinstance(one, list):
        assert len(one) == len(other), at
        pairs = [(f"{at}[{i}]", *pair) for i, pair in enumerate(zip(one, other, strict=True))]
    else:
        same = (_same_tensor if isinstance(one, Tensor) else _same_value)(one, other, relative)
        return [] if same else [f"{at}: {one} and {other}"]
    return [
        d
        for where, mine, theirs in pairs
        for d in differences(mine, theirs, where, relative=relative)
    ]


def _same_tensor(one: Tensor, other: Tensor, relative: float) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if not one.is_floating_point():
        return torch.equal(one, other)
    here, there = (each.double().nan_to_num(12345.0) for each in (one, other))
    largest = one[one.isfinite()].abs().max() if one.isfinite().any() else 0.0
    return bool(((here - there).abs() <= relative * largest).all())


def _same_value(one: Any, other: Any, relative: float) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return one == other or one != one != other or abs(one - other) <= relative * abs(one)
    return bool(one == other)
