"""Runs of one sequence under ablation that begin at the first ablated layer (`LaterBlocks`)."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.hooked_pass import check_finite_pass
from mi_toolkit.interventions.ablation.context import in_place
from mi_toolkit.interventions.ablation.target import Hooks, Target
from mi_toolkit.later_blocks import LaterBlocks


class LaterLayers:
    """One sequence, to be run under many ablations."""

    clean: Float[Tensor, "position d_vocab"]
    """The logits with nothing ablated."""

    reuses: bool
    """Whether runs begin at the first ablated layer."""

    def __init__(self, model: HookedModel, ids: Int[Tensor, " position"]) -> None:
        """Run the sequence clean, and keep what each block puts out.

        Args:
            model: the model; hooks that are active now must be so in later runs too.
            ids: the sequence.
        """
        self.model = model
        self._runs = LaterBlocks(model, ids[None])
        self.clean, self.reuses = self._runs.clean[0].clone(), self._runs.check()

    def logits(
        self, targets: Sequence[Target], hooks: Hooks, n_rows: int
    ) -> Float[Tensor, "row position d_vocab"]:
        """The logits under the hooks, which replace the targets; a row of them is one ablation.

        Raises:
            HookError: a target's hook did not fire.
            NotFiniteError: the logits are NaN or infinite.
        """
        first = min((target.layer for target in targets), default=len(self._runs.blocks))
        with in_place(self.model, targets, hooks):
            logits = self._runs.logits(first, n_rows)
            ids = self._runs.ids.repeat_interleave(n_rows, dim=0)
            check_finite_pass(self.model, ids, logits)
        return logits
