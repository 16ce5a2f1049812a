"""Sets of components to ablate on one sequence, many to a pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from jaxtyping import Float
from torch import Tensor

from mi_toolkit.errors import PromptError
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.interventions.ablation.kinds import KINDS, check_kind
from mi_toolkit.interventions.ablation.target import Apply, targets_of
from mi_toolkit.interventions.confirm.losses import LOGITS_BUDGET, MAX_ROWS
from mi_toolkit.interventions.effects.controls import ComponentSet
from mi_toolkit.interventions.effects.later_layers import LaterLayers
from mi_toolkit.prompts.tokens import Prompt, TokenBatch, tokenise


def one_sequence(
    model: HookedModel,
    prompt: Prompt,
    *,
    prepend_bos: bool | None = None,
    attention_mask: Any = None,
) -> TokenBatch:
    """The prompt's ids (see `tokenise`).

    Raises:
        PromptError: several sequences, or one that cannot be fed.
    """
    batch = tokenise(model, prompt, prepend_bos=prepend_bos, attention_mask=attention_mask)
    if len(batch) != 1:
        raise PromptError(
            f"An ablation's effect is that on one prompt, and {len(batch)} were given: call it for "
            "each."
        )
    return batch


class Runs:
    """One sequence and one kind of ablation."""

    def __init__(
        self, model: HookedModel, batch: TokenBatch, *, how: str, reference: Prompt | None
    ) -> None:
        """Check the kind; nothing runs yet.

        Args:
            model: the model.
            batch: the sequence.
            how: the kind of ablation.
            reference: what `mean` and `resample` take from.

        Raises:
            UnknownNameError: no such kind.
            PromptError: `resample` without a reference.
        """
        check_kind(how)
        self.model, self.batch, self.how = model, batch, how
        self.given = None if reference is None else tokenise(model, reference)
        if how == "resample" and self.given is None:
            raise PromptError(
                "A resample ablation takes the output on another sequence: pass one, at least as "
                "long as the prompt, as reference=."
            )
        self.reference = batch if how == "pattern_preserving" else self.given

    @cached_property
    def later(self) -> LaterLayers:
        """The clean run, and runs that begin behind it."""
        return LaterLayers(self.model, self.batch.sequence(0))

    def logits(
        self, sets: Sequence[ComponentSet], apply: Apply, *, batch_size: int | None
    ) -> Iterator[tuple[list[int], Float[Tensor, "set position d_vocab"]]]:
        """Which sets ran together, and their logits, pass by pass.

        Sets that begin in one layer run together, so that none runs a layer in vain.
        """
        for indices in self.chunks(sets, batch_size):
            targets = targets_of(self.model, [sets[index] for index in indices])
            yield indices, self.later.logits(targets, apply(targets), len(indices))

    def chunks(self, sets: Sequence[ComponentSet], batch_size: int | None) -> list[list[int]]:
        """Which sets run together."""
        by_layer: dict[int, list[int]] = {}
        for index, components in enumerate(sets):
            by_layer.setdefault(components[0].layer, []).append(index)
        vocabulary, length = int(self.model.cfg.d_vocab), self.batch.ids.shape[1]
        fitting = LOGITS_BUDGET // (vocabulary * length * 4)
        size = batch_size or max(1, min(MAX_ROWS, fitting))
        return [
            indices[start : start + size]
            for _, indices in sorted(by_layer.items())
            for start in range(0, len(indices), size)
        ]

    def prepared(self, sets: Sequence[ComponentSet]) -> Apply:
        """The kind of ablation, with all that it takes from the reference for these sets."""
        needed = sorted({component for components in sets for component in components})
        return KINDS[self.how](self.model, targets_of(self.model, [needed]), self.reference)

    def reference_in_words(self) -> str:
        """What the kind of ablation took its values from."""
        if self.how == "zero":
            return "nothing"
        if self.how == "pattern_preserving":
            return "the clean run on the prompt"
        if self.given is None:
            return "natural text"
        return f"a reference of {len(self.given)} sequences ({self.given.digest[:12]})"
