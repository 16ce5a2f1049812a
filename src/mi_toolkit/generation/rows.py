"""A generation as records, for tables and JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from mi_toolkit.generation.generation import Generation


def token_rows(generation: Generation) -> Iterator[dict[str, Any]]:
    """Each sequence's tokens with their probability and their rank among the alternatives."""
    for index, sequence in enumerate(generation.sequences):
        log_probs = sequence.log_probs.tolist()
        for step, (token, log_prob) in enumerate(
            zip(sequence.ids.tolist(), log_probs, strict=True)
        ):
            choices = sequence.alternative_ids[step].tolist()
            yield {
                "sequence": index,
                "step": step,
                "id": token,
                "token": generation.texts[token],
                "log_prob": log_prob,
                "probability": math.exp(log_prob),
                "rank": choices.index(token) + 1 if token in choices else None,
            }


def alternative_rows(generation: Generation) -> Iterator[dict[str, Any]]:
    """The most probable tokens in each token's place, best first."""
    for index, sequence in enumerate(generation.sequences):
        chosen = sequence.ids.tolist()
        ids, log_probs = sequence.alternative_ids, sequence.alternative_log_probs
        for step, row in enumerate(zip(ids.tolist(), log_probs.tolist(), strict=True)):
            for rank, (token, log_prob) in enumerate(zip(*row, strict=True), start=1):
                yield {
                    "sequence": index,
                    "step": step,
                    "rank": rank,
                    "id": token,
                    "token": generation.texts[token],
                    "log_prob": log_prob,
                    "probability": math.exp(log_prob),
                    "chosen": token == chosen[step],
                }


def beam_rows(generation: Generation) -> Iterator[dict[str, Any]]:
    """The tree's nodes, with the sequences that pass through each."""
    tree = generation.tree
    through: dict[int, list[int]] = {}
    for index, sequence in enumerate(generation.sequences):
        for node in tree.path(sequence.leaf):
            through.setdefault(node, []).append(index)
    for node in range(len(tree)):
        token = int(tree.ids[node])
        yield {
            "node": node,
            "parent": int(tree.parents[node]),
            "step": int(tree.steps[node]),
            "id": token,
            "token": generation.texts[token],
            "log_prob": float(tree.log_probs[node]),
            "total": float(tree.totals[node]),
            "ended": bool(tree.ended[node]),
            "sequences": " ".join(map(str, through.get(node, []))),
        }


ROWS: Mapping[str, Callable[[Generation], Iterator[dict[str, Any]]]] = MappingProxyType(
    {"tokens": token_rows, "alternatives": alternative_rows, "beams": beam_rows}
)
"""The kinds of rows by name."""
