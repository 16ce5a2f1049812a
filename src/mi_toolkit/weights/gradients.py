"""Gradients of the weights to be scored, folded into a score as they appear, then dropped.

1. Gradients are switched on for these weights alone, dropout off, whatever the model's mode.
2. A backward pass hands over one parameter's gradient at a time: it is folded into an accumulator
   in float32, and freed. The mean gradient of float32 weights costs no more memory than `.grad`.
3. Afterwards modes, grad flags and `.grad` are what they were, also after an error or Ctrl-C.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mi_toolkit.core.errors import WeightError
from mi_toolkit.core.model import HookedModel, evaluating
from mi_toolkit.weights.calibration import ByMatrix, Calibration, require_usual, values
from mi_toolkit.weights.coordinates import ParameterView, WeightMatrix

Fold = Callable[[WeightMatrix, Tensor], None]
"""`(matrix, gradient)`: the gradient is `[in, out]` in float32 and belongs to the one called."""


@contextmanager
def differentiable(model: HookedModel, matrices: Sequence[WeightMatrix]) -> Iterator[None]:
    """Gradients for these weights and no others inside; everything as it was after it.

    Raises:
        WeightError: weights that can have none.
    """
    require_usual(matrices)
    wanted = {id(live.parameter): live.parameter for m in matrices for live in m.live}
    everything = {id(p): p for p in _parameters(model)} | wanted
    flags = [(p, p.requires_grad) for p in everything.values()]
    grads = [(p, p.grad) for p in wanted.values()]
    try:
        for key, parameter in everything.items():
            parameter.requires_grad_(key in wanted)
        for parameter in wanted.values():
            parameter.grad = None
        with evaluating(model), torch.enable_grad():
            yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        for parameter, grad in grads:
            parameter.grad = grad


def _parameters(model: Any) -> Iterator[nn.Parameter]:
    yield from model.parameters()
    wrapped = getattr(model, "original_model", None)
    if wrapped is not None:
        yield from wrapped.parameters()


def mean_gradient(calibration: Calibration) -> ByMatrix:
    """The gradient of the objective over all texts: per canonical name, `[in, out]`, float32."""
    total: ByMatrix = {}

    def add(matrix: WeightMatrix, gradient: Tensor) -> None:
        if matrix.name in total:
            total[matrix.name].add_(gradient)
        else:
            total[matrix.name] = gradient

    fold_batches(calibration, add)
    return total


def fold_batches(calibration: Calibration, fold: Fold) -> None:
    """Fold each batch's part of the objective's gradient: together they are all of it."""
    with differentiable(calibration.model, calibration.matrices):
        for batch, share in calibration.batches():
            with _folding(calibration.matrices, fold):
                # Held by no name: it would keep the graph through the next batch's pass.
                _weighted(values(calibration.model, calibration.objective, batch), share).backward()


def _weighted(of_texts: Tensor, share: Tensor) -> Tensor:
    return (of_texts * share.to(of_texts.device)).sum()


def fold_texts(
    calibration: Calibration, fold: Callable[[WeightMatrix, Tensor, float], None]
) -> None:
    """Fold the gradient of each text's own value, with the text's share."""
    with differentiable(calibration.model, calibration.matrices):
        for text, share in calibration.batches(1):

            def shared(matrix: WeightMatrix, gradient: Tensor, of: float = float(share)) -> None:
                fold(matrix, gradient, of)

            with _folding(calibration.matrices, shared):
                values(calibration.model, calibration.objective, text).sum().backward()


@contextmanager
def _folding(matrices: Sequence[WeightMatrix], fold: Fold) -> Iterator[None]:
    """Inside, a backward pass folds each matrix' gradient once all of its places have theirs."""
    waiting = {matrix.name: len(matrix.live) for matrix in matrices}
    partial: ByMatrix = {}
    # A stack of experts is one parameter and many matrices.
    users: dict[int, list[tuple[WeightMatrix, ParameterView]]] = {}
    for matrix in matrices:
        for live in matrix.live:
            users.setdefault(id(live.parameter), []).append((matrix, live))

    def taken(parameter: Tensor) -> None:
        gradient: Any = parameter.grad  # a tensor: that is when torch calls it
        parameter.grad = None
        for matrix, live in users[id(parameter)]:
            here = live.matrix(gradient).float()
            whole = partial.pop(matrix.name).add_(here) if matrix.name in partial else here
            waiting[matrix.name] -= 1
            if waiting[matrix.name]:
                partial[matrix.name] = whole
            else:
                fold(matrix, whole)

    with ExitStack() as hooks:
        for using in users.values():
            handle = using[0][1].parameter.register_post_accumulate_grad_hook(taken)
            hooks.callback(handle.remove)
        yield
    for matrix in matrices:
        if not waiting[matrix.name]:
            continue
        if matrix.expert is None:
            raise WeightError(
                f"{matrix.name} got no gradient: the objective does not depend on it. Score it on "
                "other texts, or leave it out with parameters=."
            )
        fold(matrix, torch.zeros_like(matrix.value(), dtype=torch.float32))  # it saw no token
