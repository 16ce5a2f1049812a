"""The record behind a result that a model gave on token batches."""

from __future__ import annotations

from collections.abc import Mapping

from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.models.describe import describe_model
from mi_toolkit.prompts.tokens import TokenBatch
from mi_toolkit.provenance import Provenance


def provenance_of(
    model: HookedModel, batches: Mapping[str, TokenBatch], *, seed: int
) -> Provenance:
    """Model, versions and protocol; each batch by its stimulus, or by the part that it plays."""
    facts = describe_model(model)
    return Provenance(
        model=facts.name,
        revision=facts.revision,
        backend=type(model).__name__,
        dtype=facts.dtype,
        seed=seed,
        checked=getattr(model.cfg, "checked", None),
        bos={name: batch.bos for name, batch in batches.items()},
        bos_id=next((batch.bos_id for batch in batches.values()), None),
        prompts={name: batch.digest for name, batch in batches.items()},
    )
