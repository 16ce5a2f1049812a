"""All scorers by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from mi_toolkit.sensitivity.calibration import Scorer
from mi_toolkit.sensitivity.scorers.first_order import (
    abs_grad_x_weight,
    grad_x_weight,
    signed_grad_x_weight,
)
from mi_toolkit.sensitivity.scorers.path import weight_integrated_gradients
from mi_toolkit.sensitivity.scorers.second_order import (
    fisher,
    grad_squared,
    hessian_diag,
    obd,
    obd_hutchinson,
)
from mi_toolkit.sensitivity.scorers.without_gradient import (
    act_mag,
    magnitude,
    random,
    wanda,
    wanda_per_output,
)

SCORERS: Mapping[str, Scorer] = MappingProxyType(
    {
        scorer.__name__: scorer
        for scorer in (
            grad_x_weight,
            signed_grad_x_weight,
            abs_grad_x_weight,
            grad_squared,
            fisher,
            obd,
            obd_hutchinson,
            hessian_diag,
            magnitude,
            wanda,
            wanda_per_output,
            act_mag,
            weight_integrated_gradients,
            random,
        )
    }
)
"""A scorer takes a `Calibration` and gives `Scored`; the trivial ones are members."""
