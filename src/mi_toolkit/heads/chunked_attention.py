"""Attention in blocks of queries: patterns appear a block at a time, are read, and are gone.

For a block of queries, and as many heads and sequences as stay in the cache:

1. scores `q·k` against the keys that the block can see (half of all pairs, for causal attention);
2. softmax, in float32;
3. the entropy of each row falls out of both: `log Σ exp s - Σ p·s`, where `log Σ exp s` is any
   key's score less the log of its share;
4. the block is read, and multiplied by the values.

No rows are split, so each is exact. Memory grows with the length alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mi_toolkit.heads.block_figures import PatternBlock

CACHED = 9 * 2**17
"""Entries of a block for one core: more would wait for memory, fewer for Python between them."""

MOST_QUERIES = 128
"""Queries to a block at most: under causal attention, larger ones compute more that is masked."""

FEWEST_QUERIES = 48
"""Queries to a block at least: smaller ones spend their time between the products."""

LEAST_SHARE = 1e-30
"""Below, a float32 begins to lose digits."""

HIDDEN = -1e30
"""The score of a key that is not seen: finite, so that its share times its score is 0, not NaN."""


@dataclass(frozen=True, kw_only=True)
class BlockShape:
    """How a layer's attention is cut."""

    queries: int
    kv_heads: int
    sequences: int


def block_shape(n_sequences: int, n_kv_heads: int, group: int, n: int, threads: int) -> BlockShape:
    """The largest block that stays in the caches of `threads` cores."""
    entries = CACHED * threads
    queries = min(n, MOST_QUERIES, max(FEWEST_QUERIES, entries // (n_kv_heads * group * n)))
    kv_heads = max(1, min(n_kv_heads, entries // (group * queries * n)))
    sequences = 1
    if kv_heads == n_kv_heads:
        sequences = max(1, min(n_sequences, entries // (n_kv_heads * group * queries * n)))
    return BlockShape(queries=queries, kv_heads=kv_heads, sequences=sequences)


def attend(
    query: Float[Tensor, "sequence head position d_head"],
    key: Float[Tensor, "sequence kv_head position d_head"],
    value: Float[Tensor, "sequence kv_head position d_head"],
    *,
    scale: float,
    window: int | None,
    show: Callable[[PatternBlock], None],
    with_entropy: bool,
) -> Float[Tensor, "sequence position head d_head"]:
    """Causal attention; `show` gets every block of patterns, sequence by sequence within a block.

    Query heads share key and value heads in order: head `h` reads `h // (head / kv_head)`.
    """
    n_sequences, n_heads, n, d_head = query.shape
    n_kv_heads = key.shape[1]
    group = n_heads // n_kv_heads
    grouped = query.float().unflatten(1, (n_kv_heads, group)) * scale
    # Products with keys that lie side by side take four fifths of the time.
    keys, values = key.float().transpose(-1, -2).contiguous(), value.float().contiguous()
    out = torch.empty(n_sequences, n, n_heads, d_head, dtype=value.dtype, device=value.device)
    shape = block_shape(n_sequences, n_kv_heads, group, n, torch.get_num_threads())
    # Asking the system for new memory at each block would take as long as the products.
    most = shape.sequences * shape.kv_heads * group * shape.queries * n
    buffers = query.new_empty(2, most, dtype=torch.float32)
    ahead = buffers.new_full((shape.queries, shape.queries), HIDDEN).triu_(1)
    for queries, heads, sequences in _blocks(shape, n_sequences, n_kv_heads, n):
        first_key = 0 if window is None else max(0, queries.start - window + 1)
        seen = slice(first_key, queries.stop)
        rows = grouped[sequences, heads, :, queries]
        rows, seen_keys = rows.flatten(2, 3), keys[sequences, heads, :, seen]
        cut = (*rows.shape[:-1], seen_keys.shape[-1])
        entries = math.prod(cut)
        scores, patterns = (buffer[:entries].view(cut) for buffer in buffers)
        torch.matmul(rows, seen_keys, out=scores)
        head = slice(heads.start * group, heads.stop * group)
        by_head = (len(rows), head.stop - head.start, queries.stop - queries.start, -1)
        scores_by_head, patterns_by_head = scores.view(by_head), patterns.view(by_head)
        _hide(scores_by_head, ahead, queries.start, first_key, window)
        torch.softmax(scores, dim=-1, out=patterns)
        z = (patterns @ values[sequences, heads, seen]).view(by_head)
        out[sequences, queries, head] = z.transpose(1, 2).to(out.dtype)
        show(
            PatternBlock(
                patterns=patterns_by_head,
                first_sequence=sequences.start,
                first_head=head.start,
                first_query=queries.start,
                first_key=first_key,
                sums_to_one=True,
                entropy=_entropy(scores_by_head, patterns_by_head) if with_entropy else None,
            )
        )
    return out


def _entropy(
    scores: Float[Tensor, "sequence head query key"],
    patterns: Float[Tensor, "sequence head query key"],
) -> Float[Tensor, "sequence head query"]:
    """Of each row, in nats; `scores` are used up."""
    offset = scores.shape[-1] - scores.shape[-2]
    # Any key tells `log Σ exp s`, its score less the log of its share, if that holds its digits.
    share, score = patterns.diagonal(offset, -2, -1), scores.diagonal(offset, -2, -1)
    if not share.min() > LEAST_SHARE:
        share, score = patterns.amax(dim=-1), scores.amax(dim=-1)
    log_total = score - share.log()
    return log_total - scores.mul_(patterns).sum(dim=-1)


def blocks_of(
    patterns: Float[Tensor, "sequence head query key"], *, looks_ahead: bool = False
) -> Iterator[PatternBlock]:
    """Whole patterns in the same blocks, in float32; under causal masks without what is hidden."""
    n_sequences, n_heads, n, _ = patterns.shape
    shape = block_shape(n_sequences, n_heads, 1, n, torch.get_num_threads())
    for queries, heads, sequences in _blocks(shape, n_sequences, n_heads, n):
        block = patterns[sequences, heads, queries, : n if looks_ahead else queries.stop]
        yield PatternBlock(
            patterns=block.to(torch.float32, memory_format=torch.contiguous_format),
            first_sequence=sequences.start,
            first_head=heads.start,
            first_query=queries.start,
            first_key=0,
        )


def _blocks(
    shape: BlockShape, n_sequences: int, n_kv_heads: int, n: int
) -> Iterator[tuple[slice, slice, slice]]:
    for query in range(0, n, shape.queries):
        for head in range(0, n_kv_heads, shape.kv_heads):
            for sequence in range(0, n_sequences, shape.sequences):
                yield (
                    slice(query, min(query + shape.queries, n)),
                    slice(head, min(head + shape.kv_heads, n_kv_heads)),
                    slice(sequence, min(sequence + shape.sequences, n_sequences)),
                )


def _hide(
    scores: Float[Tensor, "sequence head query key"],
    ahead: Float[Tensor, "most_queries most_queries"],
    first_query: int,
    first_key: int,
    window: int | None,
) -> None:
    """Hide the keys behind each query, and those before its window."""
    n_queries, n_keys = scores.shape[-2:]
    scores[..., n_keys - n_queries :] += ahead[:n_queries, :n_queries]
    if window is not None:
        query = torch.arange(first_query, first_query + n_queries, device=scores.device)
        key = torch.arange(first_key, first_key + n_keys, device=scores.device)
        scores.masked_fill_(key <= query[:, None] - window, HIDDEN)
