"""`resample`: what the part wrote at the same position of another sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from mi_toolkit.errors import PromptError
from mi_toolkit.hooked_model import HookedModel
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
        n_sequences, length = activation.shape[:2]
        shortest = int(reference.lengths.min())
        if shortest < length or len(other) not in (1, n_sequences):
            raise PromptError(
                f"The resample reference has {len(other)} sequences of {shortest} "
                f"tokens and more, but {n_sequences} of {length} ran: give one sequence, or as "
                "many as run, at least as long."
            )
        return other[:, :length].to(activation.device, activation.dtype)

    return elsewhere


def _of_next_sequence(activation: Tensor) -> Tensor:
    if len(activation) < 2:
        raise PromptError(
            "A resample ablation takes the output on another sequence, and one sequence ran: "
            "run a batch, or pass reference=."
        )
    return activation.roll(1, dims=0)
