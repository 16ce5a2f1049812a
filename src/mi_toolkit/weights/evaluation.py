"""How well a model predicts held-out text, whole and with some of its weights changed.

All changes are measured batch by batch: the unchanged model's predictions of one batch are all that
is ever kept of it, and what its blocks return there. A change costs one forward pass over the texts
from the first block on that it touches: what comes before is not computed again. Only the weights
of one change are copied at a time.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.passes import LaterBlocks
from mi_toolkit.core.progress import track
from mi_toolkit.core.tokens import TokenBatch
from mi_toolkit.weights.calibration import next_tokens
from mi_toolkit.weights.coordinates import WeightMatrix
from mi_toolkit.weights.perturb import Change, applied


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
    """The quality of the model as it is, and under each change, all on the same texts.

    What comes before the first changed layer is computed once.
    """
    layers = set(first_layers(model, changes))
    runs = runs_on(model, texts, layers=layers, batch_size=batch_size)
    n_parts = math.ceil(len(texts) / batch_size)
    return qualities_of(runs, changes, n_parts=n_parts, progress=progress, label=label)


Runs = Iterable[tuple[TokenBatch, LaterBlocks]]
"""Each batch of some texts, and the unchanged model's run on it."""


def runs_on(
    model: HookedModel, texts: TokenBatch, *, layers: Collection[int], batch_size: int
) -> Iterator[tuple[TokenBatch, LaterBlocks]]:
    """The unchanged model on the texts, batch by batch, ready to run again from some layers on."""
    # A hook in a block that is not computed again would not fire. (Permanent ones are
    # TransformerLens' own, and part of what a block returns.)
    points = model.hook_dict.values()
    hooked = any(point.has_hooks(including_permanent=False) for point in points)
    reuses = False if hooked else None
    for start in range(0, len(texts), batch_size):
        batch = texts.part(start, min(start + batch_size, len(texts)))
        run = LaterBlocks(model, batch.ids, layers=layers, reuses=reuses)
        if reuses is None and any(layers):
            reuses = run.check()
        yield batch, run


def qualities_of(
    runs: Runs,
    changes: Sequence[Change],
    *,
    n_parts: int,
    progress: bool | None = None,
    label: str = "Evaluating changed weights",
) -> tuple[Quality, list[Quality]]:
    """As `qualities`, from runs of the unchanged model that are there or being made."""
    baseline, sums = _Sums(), [_Sums() for _ in changes]

    def steps() -> Iterator[None]:
        starts: list[int] | None = None
        for batch, run in runs:
            starts = first_layers(run.model, changes) if starts is None else starts
            clean = _Clean(run.clean, next_tokens(batch).to(run.clean.device))
            baseline.add(run.clean, clean)
            yield
            for start, change, sum_ in zip(starts, changes, sums, strict=True):
                with applied(change.edits()):
                    logits = run.logits(start)
                sum_.add(logits, clean)
                yield

    total = n_parts * (1 + len(changes))
    for _ in track(steps(), total=total, label=label, unit="pass", show=progress):
        pass
    return baseline.quality(), [each.quality() for each in sums]


def first_layers(model: HookedModel, changes: Sequence[Change]) -> list[int]:
    """The first block that computes something else under each change; past the last if none."""
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
