"""Path: gradients gathered on the way from no weights to these."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from mi_toolkit.hooked_model import evaluating
from mi_toolkit.sensitivity.calibration import ByMatrix, Calibration, Scored
from mi_toolkit.sensitivity.coordinates import WeightMatrix
from mi_toolkit.sensitivity.gradients import mean_gradient
from mi_toolkit.sensitivity.objective import values


def weight_integrated_gradients(calibration: Calibration) -> Scored:
    """|w·∫g(α·w) dα|: each weight's part of the objective's change from all scored weights at 0.

    Source: Sundararajan et al. 2017, arXiv:1703.01365, on weights instead of inputs. Midpoint rule
    over `n_steps`. The signed parts add up to the change (completeness): `facts` holds that change,
    their sum, and the gap between them relative to the change. Cost: `n_steps` forward and backward
    passes, and a copy of the weights. Misleads where the way leads through models unlike this one,
    as it does for most of α: a large gap asks for more steps.
    """
    total: ByMatrix = {}
    # The scored matrices alone: another expert may lie in the same parameter.
    views = [
        live.arrange(live.parameter.detach())
        for matrix in calibration.matrices
        for live in matrix.live
    ]
    with _scaled(views) as scale:
        scale(0.0)
        start = mean_value(calibration)
        for step in range(calibration.n_steps):
            scale((step + 0.5) / calibration.n_steps)
            for name, gradient in mean_gradient(calibration).items():
                if name in total:
                    total[name].add_(gradient)
                else:
                    total[name] = gradient
        scale(1.0)
        end = mean_value(calibration)
    explained = sum(
        _multiplied(m, total[m.name], calibration.n_steps) for m in calibration.matrices
    )
    change = end - start
    return Scored(
        scores=total,
        facts={
            "objective_change": change,
            "explained_change": explained,
            "completeness_gap": abs(explained - change) / max(abs(change), 1e-12),
        },
    )


def _multiplied(matrix: WeightMatrix, gradient: Tensor, n_steps: int) -> float:
    """Gradients summed over the path become scores, in place; their signed sum before that."""
    gradient.mul_(matrix.value().float()).div_(n_steps)
    signed = float(gradient.sum(dtype=torch.float64))
    gradient.abs_()
    return signed


def mean_value(calibration: Calibration) -> float:
    """The objective over all texts."""
    total = 0.0
    with evaluating(calibration.model), torch.no_grad():
        for batch, share in calibration.batches():
            of_texts = values(calibration.model, calibration.objective, batch)
            total += float((of_texts.double() * share.double()).sum())
    return total


@contextmanager
def _scaled(views: Sequence[Tensor]) -> Iterator[Callable[[float], None]]:
    kept = [view.clone() for view in views]

    def scale(factor: float) -> None:
        for view, original in zip(views, kept, strict=True):
            torch.mul(original, factor, out=view)

    try:
        yield scale
    finally:
        for view, original in zip(views, kept, strict=True):
            view.copy_(original)
