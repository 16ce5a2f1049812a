"""Which sequences run together: as many as memory has room for, with little padding.

Batches change figures by rounding only. Where sequences are compared (`positional`), they run in
the order in which they are compared, and each batch shows once more what its sequences are compared
with and others hold: rows of attention are not kept. Otherwise they run sorted by length, longest
first, so that what does not fit shows at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    """How many of them are measured; the rest is shown to be compared with."""

    def places_of(self, compared: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Of the pairs of sequences that are compared, the places in the batch of its own."""
        place = {sequence: index for index, sequence in enumerate(self.sequences)}
        fresh = set(self.sequences[: self.n_fresh])
        return [(place[first], place[second]) for first, second in compared if first in fresh]


def make_batches(
    batch: TokenBatch,
    *,
    compared: Sequence[tuple[int, int]],
    n_heads: int,
    whole_patterns: bool,
    pads: bool,
    batch_size: int | None,
    room: int,
) -> list[Batch]:
    """Cut a stimulus into batches.

    Args:
        batch: the sequences.
        compared: the pairs that are compared, each with the first of the two.
        n_heads: of a layer.
        whole_patterns: whether a layer's patterns are held as a whole.
        pads: whether sequences of unequal length run together; not where padding would be seen.
        batch_size: sequences to a batch; None to choose.
        room: bytes that are free.
    """
    lengths = batch.lengths.tolist()
    order = sorted(range(len(batch)), key=lambda index: (-lengths[index], index))
    if compared:
        order = list(dict.fromkeys([*(first for first, _ in compared), *order]))
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
    cut = []
    for group in groups:
        own = set(group)
        others = dict.fromkeys(
            second
            for first, second in compared
            if first in own and second not in own and (pads or lengths[first] == lengths[second])
        )
        cut.append(Batch(sequences=(*group, *others), n_fresh=len(group)))
    return cut


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
