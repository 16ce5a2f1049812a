"""The table of kinds of ablation: functions with one signature."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from mi_toolkit.errors import unknown_name
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.interventions.ablation.mean import mean
from mi_toolkit.interventions.ablation.pattern_preserving import pattern_preserving
from mi_toolkit.interventions.ablation.resample import resample
from mi_toolkit.interventions.ablation.target import Apply, Target
from mi_toolkit.interventions.ablation.zero import zero
from mi_toolkit.prompts.tokens import TokenBatch

Kind = Callable[[HookedModel, Sequence[Target], TokenBatch | None], Apply]
"""From the model, all that will be ablated and a reference to what makes hooks for targets."""

KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "zero": zero,
        "mean": mean,
        "resample": resample,
        "pattern_preserving": pattern_preserving,
    }
)
"""The kinds of ablation by name."""


def check_kind(how: str) -> None:
    """Check a kind's name.

    Raises:
        UnknownNameError: no such kind.
    """
    if how not in KINDS:
        raise unknown_name("kind of ablation", how, KINDS)
