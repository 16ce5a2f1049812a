"""Scorers that take gradients: first order, along a path, second order; the table of all.

First order: what the gradient of the objective says about taking a weight away.

All are of the mean objective over all texts unless said otherwise, so the number of texts does not
change their size. Units: those of the objective (nats per token).

Second order: curvature, real (Hutchinson) or by its usual stand-ins (squared gradients).

A squared gradient is not a Hessian. Each is called what it is.

Gradients of the weights to be scored are folded into a score as they appear, then dropped:

1. Gradients are switched on for these weights alone, dropout off, whatever the model's mode.
2. A backward pass hands over one parameter's gradient at a time: it is folded into an accumulator
   in float32, and freed. The mean gradient of float32 weights costs no more memory than `.grad`.
3. Afterwards modes, grad flags and `.grad` are what they were, also after an error or Ctrl-C.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mi_toolkit.core.errors import WeightError
from mi_toolkit.core.memory import give_back_freed
from mi_toolkit.core.model import HookedModel, evaluating
from mi_toolkit.core.progress import part_done
from mi_toolkit.weights.activation_scorers import (
    act_mag,
    magnitude,
    random,
    wanda,
    wanda_per_output,
)
from mi_toolkit.weights.calibration import (
    ByMatrix,
    Calibration,
    Scored,
    Scorer,
    require_usual,
    values,
    weights_of,
)
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


LARGE = 2**24
"""Weights of a model whose passes take longer than to look through memory for what was freed."""


def fold_batches(calibration: Calibration, fold: Fold) -> None:
    """Fold each batch's part of the objective's gradient: together they are all of it."""
    is_large = sum(math.prod(matrix.shape) for matrix in calibration.matrices) > LARGE
    with differentiable(calibration.model, calibration.matrices):
        for batch, share in calibration.batches():
            with _folding(calibration.matrices, fold):
                # Held by no name: it would keep the graph through the next batch's pass.
                _weighted(values(calibration.model, calibration.objective, batch), share).backward()
            if is_large:
                give_back_freed()


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


_FORWARD = 1 / 3
"""About what a forward pass takes of a forward and backward one."""


@contextmanager
def _folding(matrices: Sequence[WeightMatrix], fold: Fold) -> Iterator[None]:
    """Inside, a backward pass folds each matrix' gradient once all of its places have theirs."""
    folded = 0
    waiting = {matrix.name: len(matrix.live) for matrix in matrices}
    partial: ByMatrix = {}
    # A stack of experts is one parameter and many matrices.
    users: dict[int, list[tuple[WeightMatrix, ParameterView]]] = {}
    for matrix in matrices:
        for live in matrix.live:
            users.setdefault(id(live.parameter), []).append((matrix, live))

    def taken(parameter: Tensor) -> None:
        nonlocal folded
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
                folded += 1
                part_done(_FORWARD + (1 - _FORWARD) * folded / len(matrices))

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
        for step in calibration.track(range(calibration.n_steps), "step"):
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


def grad_squared(calibration: Calibration) -> Scored:
    """g²: the square of the mean gradient. Not the Hessian, and not the Fisher information.

    Units: objective² per weight². Cost: one forward and backward pass. Texts whose gradients cancel
    leave nothing; at a minimum of the loss it is 0 everywhere.
    """
    gradients = mean_gradient(calibration)
    for gradient in gradients.values():
        gradient.square_()
    return Scored(scores=gradients)


def fisher(calibration: Calibration) -> Scored:
    """Mean over texts, weighted by token share, of g_text²: the empirical Fisher diagonal.

    Source: Theis et al. 2018, arXiv:1801.05787. Units: objective² per weight². Cost: a forward and
    backward pass per text. Equals `grad_squared` on one text. Empirical: it takes the text's own
    tokens, not ones drawn from the model, so it is no curvature away from a good fit (Kunstner et
    al. 2019, arXiv:1905.12558), and texts of many tokens average within themselves first.
    """
    total: ByMatrix = {}

    def fold(matrix: WeightMatrix, gradient: Tensor, share: float) -> None:
        add(total, matrix, gradient.square_().mul_(share))

    fold_texts(calibration, fold)
    return Scored(scores=total)


def obd(calibration: Calibration) -> Scored:
    """½·F·w²: the rise of the objective when the weight becomes 0, at a minimum, by the Fisher F.

    Source: Optimal Brain Damage (LeCun et al. 1989), with F for the Hessian diagonal. Units: those
    of the objective, if F is the curvature. Cost: as `fisher`. A trained model is at no minimum on
    your texts, and weights do not act alone.
    """
    return _saliency(calibration, fisher(calibration))


def obd_hutchinson(calibration: Calibration) -> Scored:
    """½·h·w² with the Hessian diagonal h estimated by Hutchinson; below 0 where h is.

    Source: Optimal Brain Damage (LeCun et al. 1989). Cost and noise: as `hessian_diag`.
    """
    return _saliency(calibration, hessian_diag(calibration))


def _saliency(calibration: Calibration, curvature: Scored) -> Scored:
    for matrix in calibration.matrices:
        half_square = weights_of(matrix).square().mul_(0.5)
        for figures in (curvature.scores, curvature.standard_error, curvature.first_half):
            if matrix.name in figures:
                figures[matrix.name].mul_(half_square)
    return curvature


def hessian_diag(calibration: Calibration) -> Scored:
    """The diagonal of the Hessian: the mean of z·(Hz) over random signs z (Hutchinson).

    Source: Hutchinson 1990; Yao et al. 2021, arXiv:2006.00719. Units: objective per weight². Cost:
    one double backward pass per probe and batch, for all weights at once, and memory for the graph
    and five copies of the weights. `standard_error` comes with it: an entry's noise is the size of
    the rest of its row of H, so small entries need many probes (`n_probes`). The highest of many
    noisy scores are high by their noise; `first_half` shows by how much (`RankingNoise`).
    """
    matrices = calibration.matrices
    if calibration.n_probes < 2:
        raise WeightError("hessian_diag needs n_probes=2 or more: one has no standard error.")
    mean: ByMatrix = {m.name: torch.zeros(m.shape) for m in matrices}
    squares: ByMatrix = {m.name: torch.zeros(m.shape) for m in matrices}
    first_half: ByMatrix = {}
    n = calibration.n_probes
    with differentiable(calibration.model, matrices), sdpa_kernel(SDPBackend.MATH):
        for probe in calibration.track(range(n), "probe"):
            signs = [_signs(calibration, matrix, probe, i) for i, matrix in enumerate(matrices)]
            for matrix, estimate in zip(matrices, _probe(calibration, signs), strict=True):
                # Welford: the variance without keeping the estimates.
                step = estimate - mean[matrix.name]
                mean[matrix.name].add_(step / (probe + 1))
                squares[matrix.name].add_(step * (estimate - mean[matrix.name]))
            if probe + 1 == n // 2:
                first_half = {name: so_far.clone() for name, so_far in mean.items()}
    for total in squares.values():
        total.div_(n - 1).sqrt_().div_(n**0.5)
    return Scored(
        scores=mean, standard_error=squares, first_half=first_half, facts={"n_probes": float(n)}
    )


def _signs(calibration: Calibration, matrix: WeightMatrix, probe: int, index: int) -> Tensor:
    generator = calibration.generator(probe, index)
    drawn = torch.randint(0, 2, matrix.shape, generator=generator, dtype=torch.float32)
    return drawn.mul_(2).sub_(1).to(matrix.live[0].parameter.device)


def _probe(calibration: Calibration, signs: Sequence[Tensor]) -> list[Tensor]:
    """z·(Hz) of every matrix for one z, H being of the objective over all texts."""
    lives = [(live, z) for m, z in zip(calibration.matrices, signs, strict=True) for live in m.live]
    parameters = [live.parameter for live, _ in lives]
    products = [torch.zeros_like(z) for z in signs]
    for batch, share in calibration.batches():
        value = (values(calibration.model, calibration.objective, batch) * share).sum()
        with warnings.catch_warnings():
            # create_graph=True with `grad`, which frees its graph, is what the warning asks for.
            warnings.filterwarnings("ignore", "Using backward.*create_graph")
            gradients = torch.autograd.grad(value, parameters, create_graph=True)
        along = torch.stack(
            [
                (live.matrix(gradient).float() * z).sum()
                for (live, z), gradient in zip(lives, gradients, strict=True)
            ]
        ).sum()
        curved = iter(torch.autograd.grad(along, parameters))
        for matrix, product in zip(calibration.matrices, products, strict=True):
            for live in matrix.live:
                product.add_(live.matrix(next(curved)).float())
    return [product.mul_(z).cpu() for product, z in zip(products, signs, strict=True)]


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
