"""Which model a recording is of: enough to refuse to continue it with another."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.models.describe import describe_model

SAMPLED = 64
"""Values of each weight that the digest rests on, evenly spaced: hashing all of a model that is
larger than memory's bandwidth would take longer than recording with it."""


def model_identity(model: HookedModel) -> dict[str, Any]:
    """Name, revision, class and dtype, and a digest of a sample of the weights."""
    facts = describe_model(model)
    return {
        "name": facts.name,
        "revision": facts.revision,
        "backend": type(model).__name__,
        "dtype": facts.dtype,
        "weights": _digest(model),
    }


def _digest(model: HookedModel) -> str:
    sha = hashlib.sha256()
    for module in model.modules():
        for weight in module.parameters(recurse=False):
            sha.update(f"{list(weight.shape)}".encode())
            sha.update(_sample(weight.detach()).numpy().tobytes())
    return sha.hexdigest()


def _sample(weight: Tensor) -> Tensor:
    flat = weight.flatten()
    return flat[:: max(1, len(flat) // SAMPLED)].to(device="cpu", dtype=torch.float64)
