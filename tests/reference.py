"""The formulas of head behaviours once more: one head and one query at a time, in plain Python.

Written from the definitions, sharing no code with the library, so that both cannot be wrong alike.
Slow on purpose.
"""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import numpy.typing as npt

Pattern = npt.NDArray[np.float64]


def visible_keys(q: int, window: int | None) -> list[int]:
    first = 0 if window is None else max(0, q - window + 1)
    return list(range(first, q + 1))


def target_keys(name: str, tokens: list[int], q: int, bos: bool, window: int | None) -> list[int]:
    begin = 2 if bos else 1
    copies = [k for k in range(1 if bos else 0, q) if tokens[k] == tokens[q]]
    wanted = {
        "previous_token": [q - 1] if q >= begin else [],
        "current_token": [q] if q >= begin else [],
        "first_token": [0] if q >= 1 else [],
        "duplicate_token": copies,
        "induction": [k + 1 for k in copies if k + 1 < q],
    }[name]
    return [k for k in wanted if k in visible_keys(q, window)]


def attended_by_query(
    name: str, patterns: list[Pattern], tokens: list[list[int]], bos_id: int, window: int | None
) -> tuple[list[list[float]], list[list[float]]]:
    """Per sequence, of each eligible query: the attention on its targets, and chance."""
    scores, nulls = [], []
    for pattern, ids in zip(patterns, tokens, strict=True):
        attended, chance = [], []
        for q in range(len(ids)):
            targets = target_keys(name, ids, q, ids[0] == bos_id, window)
            if targets:
                attended.append(float(sum(pattern[q, k] for k in targets)))
                chance.append(len(targets) / len(visible_keys(q, window)))
        scores.append(attended)
        nulls.append(chance)
    return scores, nulls


def mask_behaviour(
    name: str, patterns: list[Pattern], tokens: list[list[int]], bos_id: int, window: int | None
) -> tuple[float, float]:
    """Score and null of one head, from its pattern on each sequence."""
    scores, nulls = attended_by_query(name, patterns, tokens, bos_id, window)
    return averaged(scores), averaged(nulls)


def averaged(values: list[list[float]], *, pooled: bool = False) -> float:
    """The mean over sequences of their means, or over all queries together; NaN without any."""
    held = [own for own in values if own]
    if not held:
        return math.nan
    return float(np.mean(np.concatenate(held) if pooled else [np.mean(own) for own in held]))


def off_sink(row: Pattern) -> Pattern | None:
    """A row without its first column, summing to 1; None where less than 5% is left."""
    rest = row[1:].sum()
    return None if rest < 0.05 else np.concatenate([[0.0], row[1:] / rest])


def locality(patterns: list[Pattern]) -> tuple[float, float]:
    """Value and coverage of one head."""
    seen = even = 0.0
    rows = eligible = 0
    for pattern in patterns:
        for q in range(3, len(pattern)):
            rows += 1
            row = off_sink(pattern[q])
            if row is None:
                continue
            eligible += 1
            distance = [max(0, q - k - 1) for k in range(1, q + 1)]
            seen += sum(row[k] * d for k, d in zip(range(1, q + 1), distance, strict=True))
            even += sum(distance) / q
    return (1 - seen / even if eligible else math.nan), eligible / rows


def positional(patterns: list[Pattern], *, pooled: bool = False) -> float:
    """Mean over all pairs: up to five texts, all different."""
    pairs = []
    for here, there in combinations(patterns, 2):
        variations = []
        for q in range(2, min(len(here), len(there))):
            a, b = off_sink(here[q]), off_sink(there[q])
            if a is not None and b is not None:
                n = q + 1
                variations.append(0.5 * float(np.abs(a[:n] - b[:n]).sum()))
        pairs.append([1 - variation for variation in variations])
    return averaged(pairs, pooled=pooled)


def diffuse(patterns: list[Pattern], window: int | None, *, pooled: bool = False) -> float:
    means = []
    for pattern in patterns:
        values = []
        for q in range(8, len(pattern)):
            row = pattern[q][pattern[q] > 0]
            values.append(
                float(-(row * np.log(row)).sum()) / math.log(len(visible_keys(q, window)))
            )
        means.append(values)
    return averaged(means, pooled=pooled)
