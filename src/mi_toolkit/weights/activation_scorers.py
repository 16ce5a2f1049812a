"""Scores that need no gradient, and the taps and routing counts they are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mi_toolkit.core.effective_weights import ONLY_WATCHES
from mi_toolkit.core.errors import HookError, WeightError
from mi_toolkit.core.model import HookedModel, attached, evaluating
from mi_toolkit.core.tokens import TokenBatch
from mi_toolkit.weights.calibration import ByMatrix, Calibration, Scored, run, weights_of
from mi_toolkit.weights.coordinates import Tap, WeightMatrix


def watch_input(tap: Tap, name: str, width: int, seen: Callable[[str, int, Tensor], None]) -> Any:
    """Show `seen` the input of a matrix, under its name; gives the handle that ends it."""
    if tap.argument is None:

        def after(_: Any, __: Any, output: Tensor) -> None:
            seen(name, width, output)

        setattr(after, ONLY_WATCHES, True)
        return tap.module.register_forward_hook(after)

    def before(_: Any, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        if tap.expert is not None:
            given = (*positional, *named.values())
            seen(name, width, _of_expert(given, tap.expert, tap.n_experts))
            return
        argument = tap.argument
        seen(name, width, named[argument] if isinstance(argument, str) else positional[0])

    setattr(before, ONLY_WATCHES, True)
    return tap.module.register_forward_pre_hook(before, with_kwargs=True)


def _of_expert(arguments: tuple[Any, ...], expert: int, n_experts: int) -> Tensor:
    """What one expert of a stack sees, with zeros for the tokens that it does not.

    The stack is called with all tokens and the experts chosen for each, or (Llama 4) with every
    expert's tokens one after another, zeros where they are not its own.
    """
    tokens, *rest = (each for each in arguments if isinstance(each, Tensor))
    flat = tokens.reshape(-1, tokens.shape[-1])
    chosen = [each for each in rest if not each.is_floating_point()]
    if chosen:
        takes_part = chosen[0].reshape(len(flat), -1).eq(expert).any(dim=-1)
        return torch.where(takes_part[:, None], flat, 0)
    return flat.view(n_experts, -1, flat.shape[-1])[expert]


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

    watched = attached(watch_input(tap, name, n, seen) for name, (tap, n) in taps.items())
    with evaluating(calibration.model), watched, torch.no_grad():
        for batch, _ in calibration.batches():
            places = torch.arange(batch.ids.shape[1]) < batch.lengths[:, None]
            real = places.flatten().to(calibration.model.cfg.device)
            run(calibration.model, batch)
    if missing := [name for name in taps if name not in sums]:
        raise HookError(f"The input of {missing[0]} was not seen: its module did not run.")
    return sums


def routed_tokens(
    model: HookedModel, matrices: Sequence[WeightMatrix], batches: Iterable[TokenBatch]
) -> dict[str, int]:
    """Real tokens that ran through each expert, by its name `blocks.0.mlp.experts.3`.

    Empty where there are no experts. Costs a forward pass where there are.
    """
    taps: dict[str, tuple[Tap, int]] = {}
    for matrix in matrices:
        if matrix.expert is not None and matrix.tap is not None:
            taps[matrix.name.rpartition(".")[0]] = (matrix.tap, matrix.shape[0])
    if not taps:
        return {}
    counts: Counter[str] = Counter(dict.fromkeys(taps, 0))
    real = torch.zeros(0)

    def seen(name: str, width: int, activation: Tensor) -> None:
        # What an expert does not see is shown as zeros.
        counts[name] += int(activation.detach().reshape(-1, width)[real].any(dim=-1).sum())

    watched = attached(watch_input(tap, name, n, seen) for name, (tap, n) in taps.items())
    with evaluating(model), watched, torch.no_grad():
        for batch in batches:
            places = torch.arange(batch.ids.shape[1]) < batch.lengths[:, None]
            real = places.flatten().to(model.cfg.device)
            run(model, batch)
    return dict(counts)
