"""How well a model predicts held-out text, whole and with some of its weights changed.

All changes are measured batch by batch: the unchanged model's predictions of one batch are all that
is ever kept of it, every change costs one forward pass over the texts and nothing else, and only
the weights of one change are copied at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mi_toolkit.hooked_model import HookedModel, evaluating
from mi_toolkit.progress import track
from mi_toolkit.prompts.tokens import TokenBatch
from mi_toolkit.sensitivity.edits import Change, applied
from mi_toolkit.sensitivity.objective import next_tokens, run, token_losses


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
    """The quality of the model as it is, and under each change, all on the same texts."""
    baseline, sums = _Sums(), [_Sums() for _ in changes]
    starts = range(0, len(texts), batch_size)
    steps = [(start, index) for start in starts for index in range(-1, len(changes))]
    clean = targets = torch.empty(0)
    batch = texts
    with evaluating(model), torch.no_grad():
        for start, index in track(
            steps, total=len(steps), label="Evaluating", unit="pass", show=progress
        ):
            if index < 0:
                batch = texts.part(start, min(start + batch_size, len(texts)))
                logits = run(model, batch)
                targets = next_tokens(batch).to(logits.device)
                baseline.add(logits, targets, None)
                clean = logits[targets != -100].float().log_softmax(dim=-1) if changes else clean
                continue
            with applied(changes[index].edits()):
                logits = run(model, batch)
            sums[index].add(logits, targets, clean)
    return baseline.quality(), [each.quality() for each in sums]
