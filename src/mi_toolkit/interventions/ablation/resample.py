"""`resample`: what the part wrote at the same position of another sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from mi_toolkit.errors import PromptError
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.hooked_pass import positions_before
from mi_toolkit.interventions.ablation.clean import clean_outputs
from mi_toolkit.interventions.ablation.target import Apply, Hooks, Target, replacing
from mi_toolkit.prompts.tokens import TokenBatch


def resample(model: HookedModel, needed: Sequence[Target], reference: TokenBatch | None) -> Apply:
    """The reference's activations; without one, those of the batch's next sequence."""
    if reference is None:
        return lambda targets: [
            (target.hook, replacing(target, _of_next_sequence)) for target in targets
        ]
    outputs = clean_outputs(model, [target.hook for target in needed], reference)

    def apply(targets: Sequence[Target]) -> Hooks:
        return [
            (target.hook, replacing(target, _elsewhere(outputs[target.hook], reference)))
            for target in targets
        ]

    return apply


def _elsewhere(other: Tensor, reference: TokenBatch) -> Callable[[Tensor], Tensor]:
    def elsewhere(activation: Tensor) -> Tensor:
        n_sequences, before = len(activation), positions_before()
        start = before or 0
        stop = start + activation.shape[1]
        shortest = int(reference.lengths.min())
        # Beams change their rows from step to step: a row's own reference would change hands.
        fitting = (1, n_sequences) if before is None else (1,)
        if shortest < stop or len(other) not in fitting:
            raise PromptError(
                f"The resample reference has {len(other)} sequences of {shortest} "
                f"tokens and more, but {n_sequences} of {stop} ran: give one sequence"
                f"{', or as many as run' if before is None else ''}, at least as long."
            )
        return other[:, start:stop].to(activation.device, activation.dtype)

    return elsewhere


def _of_next_sequence(activation: Tensor) -> Tensor:
    if len(activation) < 2 or positions_before() is not None:
        ran = "one sequence" if positions_before() is None else "one prompt's beams"
        raise PromptError(
            f"A resample ablation takes the output on another sequence, and {ran} ran: "
            "run a batch, or pass reference=."
        )
    return activation.roll(1, dims=0)
