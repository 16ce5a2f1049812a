"""`mean`: what the part writes on average, at every position the same."""

from __future__ import annotations

from collections.abc import Sequence

from mi_toolkit.hooked_model import HookedModel, HookFunction
from mi_toolkit.interventions.ablation.clean import mean_outputs
from mi_toolkit.interventions.ablation.target import Apply, Hooks, Target, replacing
from mi_toolkit.prompts.stimuli import natural
from mi_toolkit.prompts.tokens import TokenBatch


def mean(model: HookedModel, needed: Sequence[Target], reference: TokenBatch | None) -> Apply:
    """The mean over the reference, BOS left out; without one, over the natural passages."""
    hooks = [target.hook for target in needed]
    means = mean_outputs(
        model, hooks, natural(model, as_trained=True) if reference is None else reference
    )

    def hook(target: Target) -> HookFunction:
        value = means[target.hook]
        return replacing(target, lambda activation: value.to(activation.device, activation.dtype))

    def apply(targets: Sequence[Target]) -> Hooks:
        return [(target.hook, hook(target)) for target in targets]

    return apply
