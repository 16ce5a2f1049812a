"""Whether scores add up to what they explain."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor


def completeness_error(scores: Float[Tensor, " position"], value: float, without: float) -> float:
    """`|Σ scores − (value − without)| / |value − without|`.

    0 where the scores add up to the difference; infinite where they do not and there is none.
    """
    difference = value - without
    missing = abs(float(scores.double().sum()) - difference)
    if difference == 0.0:
        return 0.0 if missing == 0.0 else math.inf
    return missing / abs(difference)
