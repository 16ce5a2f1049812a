"""Attention patterns of heads whose behaviour is known."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mi_toolkit.core.tokens import TokenBatch
from mi_toolkit.heads.block_figures import BlockReader
from mi_toolkit.heads.chunked_attention import blocks_of
from mi_toolkit.heads.kinds import MaskBehaviour
from mi_toolkit.heads.measure import Measurement
from mi_toolkit.heads.plan import make_plan
from mi_toolkit.heads.summary import HeadFigures, summarise
from tests.dense_masks import visible


def pattern_of_mask(mask: Tensor) -> Tensor:
    """A head that spreads evenly over its targets, and looks at the sink where it has none."""
    weights = mask.float()
    weights[~mask.any(dim=-1), 0] = 1
    return weights / weights.sum(dim=-1, keepdim=True)


def even_pattern(length: int, window: int | None = None) -> Tensor:
    """A head that spreads evenly over all that it may see."""
    seen = visible(length, window).float()
    return seen / seen.sum(dim=-1, keepdim=True)


def sink_pattern(length: int) -> Tensor:
    """A head that looks at position 0 alone."""
    return torch.eye(length)[0].expand(length, length).clone()


def random_pattern(length: int, *, seed: int) -> Tensor:
    """A causal head of random scores."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(length, length, generator=generator) * 2
    return scores.masked_fill(~visible(length, None), -torch.inf).softmax(dim=-1)


def figures(
    behaviour: MaskBehaviour,
    batch: TokenBatch,
    heads: list[Tensor],
    window: int | None = None,
    tokenizer: Any = None,
) -> HeadFigures:
    """Each head's figures: one pattern per head for every sequence of the batch."""
    plan = make_plan(batch, [behaviour], window, "made", tokenizer=tokenizer)
    measurement, patterns = Measurement(plan, [0], len(heads)), torch.stack(heads, dim=1)
    reader = BlockReader(plan, range(len(batch)), len(batch), tuple(patterns.shape[:3]))
    for block in blocks_of(patterns):
        reader.read(block)
    measurement.add(0, reader)
    return summarise(measurement, min_lift=0.3)
