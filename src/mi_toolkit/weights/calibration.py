"""What every scorer is given: texts and an objective, and what it gives back.

What a score is the gradient of: by default the mean next-token loss over all tokens.

An objective gives one value per text; the objective of a set is their mean, weighted by each text's
share. The loss weighs every token the same, so a text's share is its share of the tokens; under any
other objective every text counts once. Padding has no part in any value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.core.errors import WeightError, unknown_name
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.passes import check_finite_pass
from mi_toolkit.core.progress import track
from mi_toolkit.core.tokens import TokenBatch
from mi_toolkit.weights.coordinates import WeightMatrix

Objective = Callable[[Tensor, TokenBatch], Tensor]
"""`(logits ["sequence position d_vocab"], batch) -> ["sequence"]`: one value per text."""


def next_tokens(batch: TokenBatch) -> Int[Tensor, "sequence position"]:
    """The token that each position predicts; -100 at a text's last token and in its padding."""
    targets = torch.full_like(batch.ids, -100)
    targets[:, :-1] = batch.ids[:, 1:]
    last = torch.arange(batch.ids.shape[1]) >= batch.lengths[:, None] - 1
    return targets.masked_fill(last, -100)


def token_losses(
    logits: Float[Tensor, "sequence position d_vocab"], targets: Int[Tensor, "sequence position"]
) -> Float[Tensor, "sequence position"]:
    """Negative log likelihood of each target in nats; 0 where there is none."""
    flat = F.cross_entropy(
        logits.float().flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="none"
    )
    return flat.view(targets.shape)


def loss(
    logits: Float[Tensor, "sequence position d_vocab"], batch: TokenBatch
) -> Float[Tensor, " sequence"]:
    """The mean next-token loss of each text, in nats per token."""
    losses = token_losses(logits, next_tokens(batch).to(logits.device))
    return losses.sum(dim=1) / (batch.lengths - 1).to(losses.device)


OBJECTIVES = {"loss": loss}


def objective_named(objective: str | Objective) -> Objective:
    """The function of that name; a function is taken as it is.

    Raises:
        UnknownNameError: nothing is called so.
    """
    if not isinstance(objective, str):
        return objective
    if objective not in OBJECTIVES:
        raise unknown_name("objective", objective, OBJECTIVES)
    return OBJECTIVES[objective]


def shares(objective: Objective, batch: TokenBatch) -> Float[Tensor, " sequence"]:
    """How much each text counts; they add up to 1."""
    counts = batch.lengths - 1 if objective is loss else torch.ones(len(batch))
    return counts.double() / counts.sum()


def values(model: HookedModel, objective: Objective, batch: TokenBatch) -> Float[Tensor, " text"]:
    """The objective of each text of a batch, from one forward pass.

    Raises:
        WeightError: the objective did not give one number per text.
    """
    of_texts: Any = objective(run(model, batch), batch)
    if not isinstance(of_texts, Tensor) or of_texts.shape != (len(batch),):
        raise WeightError(
            f"An objective gives one value per text, a tensor of shape [{len(batch)}] here; this "
            f"one gave {list(of_texts.shape) if isinstance(of_texts, Tensor) else type(of_texts)}."
        )
    return of_texts


def run(model: HookedModel, batch: TokenBatch) -> Float[Tensor, "sequence position d_vocab"]:
    """The logits of a batch. Padding stands after the text, where no token of it looks.

    Raises:
        NotFiniteError: they are NaN or infinite.
    """
    ids = batch.ids.to(model.cfg.device)
    if ids.is_inference():  # the caller's own: no backward pass could keep them
        ids = ids.clone()
    logits: Tensor = model(ids, return_type="logits", attention_mask=torch.ones_like(ids))
    check_finite_pass(model, ids, logits)
    return logits


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

    progress: bool | None = None
    """A progress bar; None: where somebody looks and it takes long."""

    def batches(self, size: int | None = None) -> Iterator[tuple[TokenBatch, Tensor]]:
        """The texts in order, batch by batch, each with its texts' shares of the whole."""
        share = shares(self.objective, self.texts).float().to(self.model.cfg.device)
        step = self.batch_size if size is None else size
        starts = range(0, len(self.texts), step)
        for start in self.track(starts, "batch"):
            stop = min(start + step, len(self.texts))
            yield self.texts.part(start, stop), share[start:stop]

    def track(self, rounds: Sequence[int], unit: str) -> Iterator[int]:
        """The rounds of a scorer, with a progress bar."""
        label = f"Scoring {sum(math.prod(m.shape) for m in self.matrices):,} weights"
        return track(rounds, total=len(rounds), label=label, unit=unit, show=self.progress)

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
    """Standard error of each score, in the same shapes, where scores are estimates."""

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
