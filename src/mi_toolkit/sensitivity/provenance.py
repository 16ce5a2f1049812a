"""The record behind a result on weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.prompts.tokens import TokenBatch
from mi_toolkit.provenance import Provenance


def provenance_of(model: HookedModel, *, seed: int, texts: Mapping[str, TokenBatch]) -> Provenance:
    """Model, texts by their role (`scoring`, `held_out`) and versions."""
    whole: Any = model
    return Provenance(
        model=str(model.cfg.model_name),
        revision=getattr(model.cfg, "revision", None),
        backend=type(model).__name__,
        dtype=str(next(whole.parameters()).dtype).removeprefix("torch."),
        seed=seed,
        bos={role: bool(batch.has_bos.all()) for role, batch in texts.items()},
        bos_id=next(iter(texts.values())).bos_id,
        prompts={role: batch.digest for role, batch in texts.items()},
    )
