"""`zero`: nothing where the part wrote something."""

from __future__ import annotations

from collections.abc import Sequence

from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.interventions.ablation.target import Apply, Hooks, Target, replacing
from mi_toolkit.prompts.tokens import TokenBatch


def zero(model: HookedModel, needed: Sequence[Target], reference: TokenBatch | None) -> Apply:
    """Zeros; the reference is not looked at."""

    def apply(targets: Sequence[Target]) -> Hooks:
        return [(target.hook, replacing(target, lambda _: 0.0)) for target in targets]

    return apply
