"""First order: what the gradient of the objective says about taking a weight away.

All are of the mean objective over all texts unless said otherwise, so the number of texts does not
change their size. Units: those of the objective (nats per token).
"""

from __future__ import annotations

from torch import Tensor

from mi_toolkit.sensitivity.calibration import ByMatrix, Calibration, Scored, weights_of
from mi_toolkit.sensitivity.coordinates import WeightMatrix
from mi_toolkit.sensitivity.gradients import fold_texts, mean_gradient


def grad_x_weight(calibration: Calibration) -> Scored:
    """|g·w|: the size of the first-order change of the objective when the weight becomes 0.

    Source: SNIP (Lee et al. 2019, arXiv:1810.02340); Mozer and Smolensky 1989. Cost: one forward
    and backward pass. Misleads where texts pull a weight in different directions (their gradients
    cancel: see `abs_grad_x_weight`), and far from linearity: the largest effects of all, super
    weights, are underrated.
    """
    gradients = mean_gradient(calibration)
    for matrix in calibration.matrices:
        # One matrix after the other, in place: each is still in the processor's cache.
        gradients[matrix.name].mul_(weights_of(matrix)).abs_()
    return Scored(scores=gradients)


def signed_grad_x_weight(calibration: Calibration) -> Scored:
    """−g·w: the predicted change of the objective when the weight becomes 0; above 0 is worse.

    Source: as `grad_x_weight`, with its sign (Taylor expansion, Molchanov et al. 2017,
    arXiv:1611.06440). Cost: one forward and backward pass. Good where the loss is locally linear;
    at a super weight even its sign is wrong.
    """
    gradients = mean_gradient(calibration)
    for matrix in calibration.matrices:
        gradients[matrix.name].mul_(weights_of(matrix)).neg_()
    return Scored(scores=gradients)


def abs_grad_x_weight(calibration: Calibration) -> Scored:
    """Mean over texts, weighted by token share, of |g_text·w|: gradients of texts cannot cancel.

    Source: `grad_x_weight` per example, as in Michel et al. 2019, arXiv:1905.10650. Cost: a forward
    and backward pass per text, so less is done at once. Never below `grad_x_weight`. Noise of
    single texts does not cancel either: a weight that matters to none has a score above 0.
    """
    total: ByMatrix = {}

    def fold(matrix: WeightMatrix, gradient: Tensor, share: float) -> None:
        add(total, matrix, gradient.mul_(weights_of(matrix)).abs_().mul_(share))

    fold_texts(calibration, fold)
    return Scored(scores=total)


def add(total: ByMatrix, matrix: WeightMatrix, term: Tensor) -> None:
    """Add to a running sum; the first term becomes the sum."""
    if matrix.name in total:
        total[matrix.name].add_(term)
    else:
        total[matrix.name] = term
