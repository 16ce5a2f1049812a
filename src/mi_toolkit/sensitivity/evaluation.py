"""How well a model predicts held-out text, whole and with some of its weights changed.

All changes are measured batch by batch: the unchanged model's predictions of one batch are all that
is ever kept of it, every change costs one forward pass over the texts, from the first changed layer
on, and nothing else, and only the weights of one change are copied at a time.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.later_blocks import LaterBlocks
from mi_toolkit.progress import track
from mi_toolkit.prompts.tokens import TokenBatch
from mi_toolkit.sensitivity.coordinates import WeightMatrix
from mi_toolkit.sensitivity.edits import Change, applied
from mi_toolkit.sensitivity.objective import next_tokens, token_losses


@dataclass(frozen=True, kw_only=True)
class Quality:
    """How well a model predicts some texts; every predicted token counts the same."""

    loss: float
    """Mean next-token loss, in nats per token."""

    accuracy: float
    """Share of tokens that the model held the most likely, 0 to 1."""

    kl: float
    """Mean divergence of the unchanged model's predictions from these, KL(unchanged ‖ changed), in
    nats per token; 0 of the unchanged model."""

    n_tokens: int
    """Predicted tokens."""

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite where that is too large for a float."""
        return math.exp(self.loss) if self.loss < 700 else math.inf


class _Sums:
    """Running sums of one condition."""

    def __init__(self) -> None:
        self.loss = self.correct = self.kl = 0.0
        self.n_tokens = 0

    def add(self, logits: Tensor, targets: Tensor, clean: Tensor | None) -> None:
        real = targets != -100
        chosen = logits[real].float()
        # token_losses keeps the place of each token; here only the real ones are left.
        losses = token_losses(chosen[None], targets[real][None])
        self.loss += float(losses.sum(dtype=torch.float64))
        self.correct += float((chosen.argmax(dim=-1) == targets[real]).sum())
        self.n_tokens += int(real.sum())
        if clean is not None:
            ours, theirs = chosen.log_softmax(dim=-1), clean
            self.kl += float((theirs.exp() * (theirs - ours)).sum(dtype=torch.float64))

    def quality(self) -> Quality:
        n = self.n_tokens
        return Quality(
            loss=self.loss / n, accuracy=self.correct / n, kl=self.kl / n, n_tokens=self.n_tokens
        )


def qualities(
    model: HookedModel,
    texts: TokenBatch,
    changes: Sequence[Change],
    *,
    batch_size: int,
    progress: bool | None = None,
) -> tuple[Quality, list[Quality]]:
    """The quality of the model as it is, and under each change, all on the same texts.

    What comes before the first changed layer is computed once.
    """
    layers = {first_layer(model, change) for change in changes}
    runs = runs_on(model, texts, layers=layers, batch_size=batch_size)
    n_parts = math.ceil(len(texts) / batch_size)
    return qualities_of(runs, changes, n_parts=n_parts, progress=progress)


Runs = Iterable[tuple[TokenBatch, LaterBlocks]]
"""Each batch of some texts, and the unchanged model's run on it."""


def runs_on(
    model: HookedModel, texts: TokenBatch, *, layers: Collection[int], batch_size: int
) -> Iterator[tuple[TokenBatch, LaterBlocks]]:
    """The unchanged model on the texts, batch by batch, ready to run again from some layers on."""
    reuses = None
    for start in range(0, len(texts), batch_size):
        batch = texts.part(start, min(start + batch_size, len(texts)))
        run = LaterBlocks(model, batch.ids, layers=layers, reuses=reuses)
        if reuses is None and any(layers):
            reuses = run.check()
        yield batch, run


def qualities_of(
    runs: Runs, changes: Sequence[Change], *, n_parts: int, progress: bool | None = None
) -> tuple[Quality, list[Quality]]:
    """As `qualities`, from runs of the unchanged model that are there or being made."""
    baseline, sums = _Sums(), [_Sums() for _ in changes]

    def steps() -> Iterator[None]:
        for batch, run in runs:
            targets = next_tokens(batch).to(run.clean.device)
            baseline.add(run.clean, targets, None)
            yield
            clean = run.clean[targets != -100].float().log_softmax(dim=-1) if changes else None
            for change, sum_ in zip(changes, sums, strict=True):
                with applied(change.edits()):
                    logits = run.logits(first_layer(run.model, change))
                sum_.add(logits, targets, clean)
                yield

    total = n_parts * (1 + len(changes))
    for _ in track(steps(), total=total, label="Evaluating", unit="pass", show=progress):
        pass
    return baseline.quality(), [each.quality() for each in sums]


def first_layer(model: HookedModel, change: Change) -> int:
    """The first block that computes something else under a change; past the last one if none."""
    return min(_layer(model, matrix) for matrix, _, _ in change.places)


def _layer(model: HookedModel, matrix: WeightMatrix) -> int:
    if matrix.layer is not None:
        return matrix.layer
    return 0 if matrix.component in ("W_E", "W_pos") else int(model.cfg.n_layers)
