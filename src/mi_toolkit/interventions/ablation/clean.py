"""Clean runs on a reference: what the kinds of ablation take their values from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from jaxtyping import Float
from torch import Tensor

from mi_toolkit.errors import PromptError
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.hooked_pass import visit_activations
from mi_toolkit.prompts.tokens import TokenBatch

MEAN_BATCH = 16

_running: ContextVar[bool] = ContextVar("_running", default=False)


@contextmanager
def running_clean() -> Iterator[None]:
    """Inside, active ablations change nothing: where contexts nest, a reference is clean."""
    token = _running.set(True)
    try:
        yield
    finally:
        _running.reset(token)


def is_running_clean() -> bool:
    """Whether what runs now is a reference."""
    return _running.get()


def clean_outputs(
    model: HookedModel, hooks: Sequence[str], batch: TokenBatch
) -> dict[str, Float[Tensor, "batch position *unit"]]:
    """Each hook's activation in a clean run, on the CPU in float32."""
    kept: dict[str, Tensor] = {}

    def keep(name: str, activation: Tensor) -> None:
        kept[name] = activation.to(device="cpu", dtype=torch.float32, copy=True)

    with running_clean():
        visit_activations(model, batch.ids, hooks, keep)
    return kept


def mean_outputs(
    model: HookedModel, hooks: Sequence[str], batch: TokenBatch
) -> dict[str, Float[Tensor, "*unit"]]:
    """Each hook's mean activation over a batch; padding and a BOS at 0 left out.

    Raises:
        PromptError: the batch has nothing but BOS.
    """
    position = torch.arange(batch.ids.shape[1])
    counts = (position < batch.lengths[:, None]) & (position >= batch.has_bos[:, None].long())
    if not counts.any():
        raise PromptError("The mean over a reference needs a token besides BOS.")
    sums: dict[str, Tensor] = {}
    for start in range(0, len(batch), MEAN_BATCH):
        stop = min(start + MEAN_BATCH, len(batch))
        for name, activation in clean_outputs(model, hooks, batch.part(start, stop)).items():
            counted = activation[counts[start:stop, : activation.shape[1]]]
            sums[name] = sums.get(name, torch.tensor(0.0)) + counted.sum(dim=0)
    return {name: total / counts.sum() for name, total in sums.items()}
