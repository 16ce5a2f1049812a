"""The table of methods: functions with one signature, and what their scores mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from mi_toolkit.attribution.attention_rollout import attention_rollout
from mi_toolkit.attribution.gradient_norm import gradient_norm
from mi_toolkit.attribution.input_x_gradient import input_x_gradient
from mi_toolkit.attribution.integrated_gradients import integrated_gradients
from mi_toolkit.attribution.occlusion import occlusion
from mi_toolkit.attribution.question import Answer, Question


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to give tokens scores."""

    run: Callable[[Question], Answer]
    """From a question to a score for each token."""

    measures: str
    """What a score is, in a few words."""

    has_baseline: bool
    """Whether scores are relative to a baseline: they then have a sign, and can be held against
    F(prompt) − F(baseline)."""


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "integrated_gradients": Method(
            run=integrated_gradients,
            measures="share of the difference to the baseline, by the gradient on the way there",
            has_baseline=True,
        ),
        "input_x_gradient": Method(
            run=input_x_gradient,
            measures="share of the difference to the baseline, by the gradient at the prompt",
            has_baseline=True,
        ),
        "gradient_norm": Method(
            run=gradient_norm,
            measures="length of the gradient at the token's embedding: sensitivity, without a sign",
            has_baseline=False,
        ),
        "occlusion": Method(
            run=occlusion,
            measures="what replacing this token alone by the baseline takes away",
            has_baseline=True,
        ),
        "attention_rollout": Method(
            run=attention_rollout,
            measures="attention multiplied through the layers, whatever the target; sums to 1",
            has_baseline=False,
        ),
    }
)
"""The methods by name."""
