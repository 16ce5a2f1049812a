"""Which sequences run together: as many as memory has room for, with little padding.

Batches change no figure. Where sequences are compared with the next one (`positional`), they run in
the caller's order, and each batch shows the first sequence of the next batch once more: sorted by
length, most would have to run a second time, as the next of another, since rows of attention are
not kept. Prompts given in order of length run with the least padding. Otherwise they run sorted by
length, longest first, so that what does not fit shows at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch

from mi_toolkit.prompts.tokens import TokenBatch

MOST_SEQUENCES = 64
MOST_TOKENS = 4096
"""Tokens of a batch: beyond, larger products are no quicker."""

SHARE = 0.25
"""Of the free memory that a batch may take."""

MOST_PADDING = 1.25
"""Tokens run for one that counts: a batch is closed before it goes beyond."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Sequences that run together."""

    sequences: tuple[int, ...]
    """Their places in the stimulus."""

    n_fresh: int
    """How many of them are measured; one more may be shown to compare the last with."""


def make_batches(
    batch: TokenBatch,
    *,
    compares: bool,
    n_heads: int,
    whole_patterns: bool,
    pads: bool,
    batch_size: int | None,
    room: int,
) -> list[Batch]:
    """Cut a stimulus into batches.

    Args:
        batch: the sequences.
        compares: whether each is compared with the next.
        n_heads: of a layer.
        whole_patterns: whether a layer's patterns are held as a whole.
        pads: whether sequences of unequal length run together; not where padding would be seen.
        batch_size: sequences to a batch; None to choose.
        room: bytes that are free.
    """
    lengths = batch.lengths.tolist()
    order = list(range(len(batch)))
    if not compares:
        order.sort(key=lambda index: (-lengths[index], index))
    groups: list[list[int]] = []
    for index in order:
        joined = [lengths[place] for place in (*groups[-1], index)] if groups else []
        if batch_size is None:
            fits = _fits(joined, n_heads, whole_patterns, room)
        else:
            fits = len(joined) <= batch_size
        if groups and fits and (pads or len(set(joined)) == 1):
            groups[-1].append(index)
        else:
            groups.append([index])
    ahead = [
        group[:1] if compares and (pads or lengths[group[0]] == lengths[here[0]]) else []
        for here, group in pairwise(groups)
    ]
    return [
        Batch(sequences=(*group, *shown), n_fresh=len(group))
        for group, shown in zip(groups, [*ahead, []], strict=True)
    ]


def _fits(lengths: list[int], n_heads: int, whole_patterns: bool, room: int) -> bool:
    """Whether sequences of these lengths make one batch."""
    tokens = len(lengths) * max(lengths, default=0)
    # Scores, mask and softmax beside the patterns; else the figures of a row, about thirty.
    entries = tokens * n_heads * (4 * max(lengths, default=0) if whole_patterns else 30)
    return (
        len(lengths) <= MOST_SEQUENCES
        and tokens <= MOST_TOKENS
        and tokens <= MOST_PADDING * sum(lengths)
        and entries * torch.float32.itemsize <= SHARE * room
    )
