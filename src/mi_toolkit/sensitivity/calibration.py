"""What every scorer is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from mi_toolkit.errors import WeightError
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.progress import track
from mi_toolkit.prompts.tokens import TokenBatch
from mi_toolkit.sensitivity.coordinates import WeightMatrix
from mi_toolkit.sensitivity.objective import Objective, shares

ByMatrix = dict[str, Tensor]
"""A matrix `[in, out]` in float32 for each canonical name."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """A model, the weights to score, and the texts to score them on."""

    model: HookedModel
    matrices: Sequence[WeightMatrix]
    texts: TokenBatch
    objective: Objective
    batch_size: int
    """Texts to a pass. Scorers that need each text's own gradient take them one by one."""

    seed: int = 0
    """Of the probes and of `random`; nothing else is random."""

    n_probes: int = 32
    """Random vectors of a Hutchinson estimate."""

    n_steps: int = 16
    """Points on the path of integrated gradients."""

    def batches(self, size: int | None = None) -> Iterator[tuple[TokenBatch, Tensor]]:
        """The texts in order, batch by batch, each with its texts' shares of the whole."""
        share = shares(self.objective, self.texts).float().to(self.model.cfg.device)
        step = self.batch_size if size is None else size
        starts = range(0, len(self.texts), step)
        for start in track(
            starts, total=len(starts), label="Scoring weights", unit="batch", show=None
        ):
            stop = min(start + step, len(self.texts))
            yield self.texts.part(start, stop), share[start:stop]

    def generator(self, *more: int) -> torch.Generator:
        """A source of random numbers that no one else draws from."""
        mixed = self.seed
        for number in more:
            mixed = (mixed * 1_000_003 + number + 1) % (2**63)
        return torch.Generator().manual_seed(mixed)


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """What a scorer gives back."""

    scores: ByMatrix
    """Per canonical name, `[in, out]`: the higher, the more the weight matters."""

    standard_error: ByMatrix = field(default_factory=dict)
    """The same shapes, where the score is an estimate."""

    first_half: ByMatrix = field(default_factory=dict)
    """The same shapes: what the first half of the random draws alone would give, rounded down."""

    facts: Mapping[str, float] = field(default_factory=dict)
    """Figures about the whole: the gap of a completeness relation, say."""


Scorer = Callable[[Calibration], Scored]


def weights_of(matrix: WeightMatrix) -> Float[Tensor, "in out"]:
    """A matrix as float32: the model's own memory where that is its dtype."""
    return matrix.value().float()


def require_finite(matrices: Sequence[WeightMatrix]) -> None:
    """Check that no weight is NaN or infinite.

    Raises:
        WeightError: naming the first parameter with one.
    """
    for matrix in matrices:
        value = matrix.value()
        # A sum is finite unless a term is not, or the sum overflows: look closer only then.
        if not torch.isfinite(value.sum()):
            rows, columns = (~torch.isfinite(value)).nonzero(as_tuple=True)
            if len(rows):
                raise WeightError(
                    f"{matrix.name} has {len(rows)} weights that are NaN or infinite, the first "
                    f"at [{int(rows[0])}, {int(columns[0])}]: no score would mean anything."
                )


def require_usual(matrices: Sequence[WeightMatrix]) -> None:
    """Check that the weights can be differentiated and changed.

    Raises:
        WeightError: they were made in inference mode; the first is named.
    """
    for matrix in matrices:
        if any(live.parameter.is_inference() for live in matrix.live):
            raise WeightError(
                f"{matrix.name} was made inside torch.inference_mode(), so it can be neither "
                "differentiated nor changed. Make the model outside of it, or take load_model, "
                "which copies such weights."
            )
