"""Attention patterns of heads whose behaviour is known."""

from __future__ import annotations

import torch
from torch import Tensor

from mi_toolkit.heads import masks


def pattern_of_mask(mask: Tensor) -> Tensor:
    """A head that spreads evenly over its targets, and looks at the sink where it has none."""
    weights = mask.float()
    weights[~mask.any(dim=-1), 0] = 1
    return weights / weights.sum(dim=-1, keepdim=True)


def even_pattern(length: int, window: int | None = None) -> Tensor:
    """A head that spreads evenly over all that it may see."""
    visible = masks.visible(length, window).float()
    return visible / visible.sum(dim=-1, keepdim=True)


def sink_pattern(length: int) -> Tensor:
    """A head that looks at position 0 alone."""
    return torch.eye(length)[0].expand(length, length).clone()


def random_pattern(length: int, *, seed: int) -> Tensor:
    """A causal head of random scores."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(length, length, generator=generator) * 2
    return scores.masked_fill(~masks.visible(length, None), -torch.inf).softmax(dim=-1)
