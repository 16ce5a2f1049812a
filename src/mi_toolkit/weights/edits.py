"""What a weight becomes: `EDITS` is the table of ways. Pure: it sees no model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from mi_toolkit.core.model import bits


def zero(old: Tensor, scale: float, generator: torch.Generator) -> Tensor:
    """0."""
    return torch.zeros_like(old)


def sign_flip(old: Tensor, scale: float, generator: torch.Generator) -> Tensor:
    """−w."""
    return -old


def gaussian(old: Tensor, scale: float, generator: torch.Generator) -> Tensor:
    """Noise relative to the weight: w + scale·|w|·ε, ε standard normal."""
    noise = torch.randn(old.shape, generator=generator).to(old.device)
    return (old.float() + scale * old.float().abs() * noise).to(old.dtype)


def scaled(old: Tensor, scale: float, generator: torch.Generator) -> Tensor:
    """scale·w."""
    return old * scale


def bit_flip(old: Tensor, scale: float, generator: torch.Generator) -> Tensor:
    """One random bit of the weight's own dtype is flipped; the result may be infinite or NaN."""
    integers = bits(old)
    places = torch.randint(8 * old.element_size(), old.shape, generator=generator)
    flags = torch.tensor(1, dtype=integers.dtype) << places.to(integers.dtype)
    return (integers ^ flags.to(old.device)).view(old.dtype)


EDITS: Mapping[str, Callable[[Tensor, float, torch.Generator], Tensor]] = MappingProxyType(
    {
        "zero": zero,
        "sign_flip": sign_flip,
        "gaussian": gaussian,
        "bit_flip": bit_flip,
        "scale": scaled,
    }
)
"""How a weight can be changed: `(old values, scale, generator) -> new values`."""
