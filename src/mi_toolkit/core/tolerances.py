"""How far rounding alone may part two runs of one model, by the dtype of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor

LOGITS: Mapping[str, float] = MappingProxyType(
    {"float64": 2e-5, "float32": 2e-5, "float16": 1e-2, "bfloat16": 5e-2}
)
"""Largest difference of logits, as a share of the largest by size (of 1, where that is smaller)."""

ATTENTION: Mapping[str, float] = MappingProxyType(
    {"float64": 1e-4, "float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
)
"""Largest difference of a single attention weight."""

ROW_SUMS: Mapping[str, float] = MappingProxyType(
    {"float32": 1e-5, "float16": 5e-3, "bfloat16": 2e-2}
)
"""Largest difference from 1 of the sum of a row of attention."""


HALF_PRECISION: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"float16": (2e-2, 2e-3), "bfloat16": (1e-1, 1e-2)}
)
"""Root mean squares: of logits, in standard deviations of the logits; and of a layer's attention.

In half precision a single logit of a trained model moves by a tenth of the largest with the order
of its sums, as far as from the same model in float32: all together tell rounding from a fault."""


def logit_floor(dtype: str, logits: Tensor) -> float:
    """The largest difference between logits that rounding explains."""
    return LOGITS[dtype] * max(1.0, float(logits.abs().max()))
