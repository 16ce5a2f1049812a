"""Scores that need no gradient: the weight's size, and the size of what it multiplies."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from mi_toolkit.errors import HookError, WeightError
from mi_toolkit.hooked_model import evaluating
from mi_toolkit.sensitivity.calibration import ByMatrix, Calibration, Scored, weights_of
from mi_toolkit.sensitivity.objective import run
from mi_toolkit.sensitivity.taps import watch_input


def magnitude(calibration: Calibration) -> Scored:
    """|w|. Source: Han et al. 2015, arXiv:1506.02626. No pass at all.

    Misleads where a norm follows or precedes: the same function can have other sizes of weights.
    """
    return Scored(scores={m.name: weights_of(m).abs() for m in calibration.matrices})


def random(calibration: Calibration) -> Scored:
    """Uniform numbers in [0, 1), from `seed`: the baseline that any other score has to beat."""
    return Scored(
        scores={
            matrix.name: torch.rand(matrix.shape, generator=calibration.generator(index))
            for index, matrix in enumerate(calibration.matrices)
        }
    )


def wanda(calibration: Calibration) -> Scored:
    """|w|·‖x‖₂, x the matrix' input at that row, over all tokens of all texts.

    Source: Wanda (Sun et al. 2024, arXiv:2306.11695), which compares within an output: for that see
    `wanda_per_output`. Units: of the activation, and it grows with the root of the number of
    tokens. Cost: a forward pass. It sees what a layer loses, not what the model makes of it.
    """
    return _times_inputs(calibration, torch.square, torch.sqrt)


def wanda_per_output(calibration: Calibration) -> Scored:
    """`wanda` as a share of its output: |w|·‖x‖₂ over the sum of those of the same column.

    The comparison group of the Wanda paper, made into a number that ranks across columns.
    """
    scored = wanda(calibration)
    for score in scored.scores.values():
        score.div_(score.sum(dim=0, keepdim=True).clamp_min(torch.finfo(score.dtype).tiny))
    return scored


def act_mag(calibration: Calibration) -> Scored:
    """|w|·mean|x|: as `wanda`, with the mean size of the input instead of its norm.

    Does not grow with the number of tokens, and feels a rare large activation less. Cost: a forward
    pass.
    """
    scored = _times_inputs(calibration, torch.abs, torch.clone)
    n_tokens = int(calibration.texts.lengths.sum())
    for score in scored.scores.values():
        score.div_(n_tokens)
    return scored


def _times_inputs(
    calibration: Calibration,
    each: Callable[[Tensor], Tensor],
    total: Callable[[Tensor], Tensor],
) -> Scored:
    sums = input_sums(calibration, each)
    scores: ByMatrix = {}
    for matrix in calibration.matrices:
        size = total(sums[matrix.name]).float()
        scores[matrix.name] = weights_of(matrix).abs() * size[:, None]
    return Scored(scores=scores)


def input_sums(
    calibration: Calibration, each: Callable[[Tensor], Tensor]
) -> dict[str, Float[Tensor, " in"]]:
    """Per matrix, `each` of its input summed over all real tokens, in float64."""
    taps = {}
    for matrix in calibration.matrices:
        if matrix.tap is None:
            raise WeightError(
                f"{matrix.name} multiplies no activation, or none that a module shows (inside an "
                "expert), so it has no such score: leave it out with parameters=, or take a metric "
                "with gradients."
            )
        taps[matrix.name] = (matrix.tap, matrix.shape[0])
    sums: dict[str, Tensor] = {}
    real = torch.zeros(0)

    def seen(name: str, width: int, activation: Tensor) -> None:
        tokens = activation.detach().reshape(-1, width)[real]
        summed = each(tokens.float()).sum(dim=0, dtype=torch.float64)
        sums[name] = sums[name] + summed if name in sums else summed

    handles = [watch_input(tap, name, width, seen) for name, (tap, width) in taps.items()]
    try:
        with evaluating(calibration.model), torch.no_grad():
            for batch, _ in calibration.batches():
                places = torch.arange(batch.ids.shape[1]) < batch.lengths[:, None]
                real = places.flatten().to(calibration.model.cfg.device)
                run(calibration.model, batch)
    finally:
        for handle in handles:
            handle.remove()
    if missing := [name for name in taps if name not in sums]:
        raise HookError(f"The input of {missing[0]} was not seen: its module did not run.")
    return sums
