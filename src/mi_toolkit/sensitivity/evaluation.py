"""How well a model predicts held-out text, whole and with some of its weights changed.

All changes are measured batch by batch: the unchanged model's predictions of one batch are all that
is ever kept of it, and what its blocks return there. A change costs one forward pass over the texts
from the first block on that it touches: what comes before is not computed again. Only the weights
of one change are copied at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mi_toolkit.hooked_model import HookedModel, evaluating
from mi_toolkit.hooked_pass import keeping_block_outputs, starting_at_block
from mi_toolkit.progress import track
from mi_toolkit.prompts.tokens import TokenBatch
from mi_toolkit.sensitivity.coordinates import WeightMatrix
from mi_toolkit.sensitivity.edits import Change, applied
from mi_toolkit.sensitivity.objective import next_tokens, run


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


class _Clean:
    """What the unchanged model predicts of one batch's real tokens."""

    def __init__(self, logits: Tensor, targets: Tensor) -> None:
        self.real = targets != -100
        self.targets = targets[self.real][:, None]
        self.logs = logits[self.real].float().log_softmax(dim=-1)
        self.probabilities = self.logs.exp()


class _Sums:
    """Running sums of one condition."""

    def __init__(self) -> None:
        self.loss = self.correct = self.kl = 0.0
        self.n_tokens = 0

    def add(self, logits: Tensor, clean: _Clean) -> None:
        chosen = logits[clean.real].float()
        self.correct += float((chosen.argmax(dim=-1, keepdim=True) == clean.targets).sum())
        self.n_tokens += len(clean.targets)
        logs = chosen.log_softmax(dim=-1)
        self.loss -= float(logs.gather(1, clean.targets).sum(dtype=torch.float64))
        apart = torch.sub(clean.logs, logs, out=logs).mul_(clean.probabilities)
        self.kl += float(apart.sum(dtype=torch.float64))

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
    label: str = "Evaluating changed weights",
) -> tuple[Quality, list[Quality]]:
    """The quality of the model as it is, and under each change, all on the same texts."""
    baseline, sums = _Sums(), [_Sums() for _ in changes]
    starts = range(0, len(texts), batch_size)
    passes = _Passes(model, changes)
    total = len(starts) * (1 + len(changes))
    steps = track(range(total), total=total, label=label, unit="pass", show=progress)
    with evaluating(model), torch.no_grad():
        for start in starts:
            next(steps)
            batch = texts.part(start, min(start + batch_size, len(texts)))
            logits = passes.unchanged(batch)
            clean = _Clean(logits, next_tokens(batch).to(logits.device))
            baseline.add(logits, clean)
            for index, (change, changed) in enumerate(zip(changes, sums, strict=True)):
                next(steps)
                with applied(change.edits()):
                    logits = passes.changed(index, batch)
                changed.add(logits, clean)
        next(steps, None)  # closes the bar
    return baseline.quality(), [each.quality() for each in sums]


class _Passes:
    """Passes over one batch after the other: whole, and again from the first changed block on."""

    def __init__(self, model: HookedModel, changes: Sequence[Change]) -> None:
        self.model = model
        # A hook in a block that is not computed again would not fire. (Permanent ones are
        # TransformerLens' own, and part of what a block returns.)
        points = model.hook_dict.values()
        hooked = any(point.has_hooks(including_permanent=False) for point in points)
        self.starts = [0 if hooked else start for start in _first_blocks(model, changes)]
        self.returned: dict[int, Any] = {}
        self.is_checked = False

    def unchanged(self, batch: TokenBatch) -> Tensor:
        """The logits of a new batch."""
        before = sorted({start - 1 for start in self.starts if start})
        self.returned.clear()
        with keeping_block_outputs(self.model, before) as self.returned:
            logits = run(self.model, batch)
        if before and not self.is_checked:
            self.is_checked = True
            if not torch.equal(self._from(before[-1] + 1, batch), logits):
                # Later blocks read what earlier ones left elsewhere: every pass is a whole one.
                self.starts = [0] * len(self.starts)
        return logits

    def changed(self, index: int, batch: TokenBatch) -> Tensor:
        """The logits of the same batch by the model as it is now, under a change."""
        return self._from(self.starts[index], batch)

    def _from(self, start: int, batch: TokenBatch) -> Tensor:
        with starting_at_block(self.model, start, self.returned.get(start - 1)):
            return run(self.model, batch)


def _first_blocks(model: HookedModel, changes: Sequence[Change]) -> list[int]:
    """The first block that each change touches; one more than the last for what follows them."""
    blocks: Any = model.blocks  # type: ignore[attr-defined]
    # Backwards, so that a parameter that blocks share counts where it comes first.
    home = {
        id(parameter): layer
        for layer in reversed(range(len(blocks)))
        for parameter in blocks[layer].parameters()
    }

    def first(matrix: WeightMatrix) -> int:
        follows = matrix.name.startswith(("ln_final.", "unembed."))
        elsewhere = len(blocks) if follows else 0
        return min(home.get(id(live.parameter), elsewhere) for live in matrix.live)

    return [min(first(matrix) for matrix, *_ in change.places) for change in changes]
