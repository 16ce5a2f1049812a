"""Which model a recording is of: enough to refuse to continue it with another."""

from __future__ import annotations

from typing import Any

from mi_toolkit.hooked_model import HookedModel, weights_digest
from mi_toolkit.models.describe import describe_model


def model_identity(model: HookedModel) -> dict[str, Any]:
    """Name, revision, class and dtype, and a digest of the weights."""
    facts = describe_model(model)
    return {
        "name": facts.name,
        "revision": facts.revision,
        "backend": type(model).__name__,
        "dtype": facts.dtype,
        "weights": weights_digest(model),
    }
