"""Where the nodes of a tree of beams stand in a drawing: steps to the right, beams below. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mi_toolkit.generation.beam_tree import PROMPT
from mi_toolkit.generation.generation import Generation
from mi_toolkit.views.token_grid import percent
from mi_toolkit.views.tokens import visible


@dataclass(frozen=True, kw_only=True)
class PlacedNode:
    """One token of the drawing."""

    column: int
    """Its step."""

    lane: int
    """Its row; the best sequence keeps to row 0."""

    parent: tuple[int, int] | None
    """Column and lane of the node before it; None behind the prompt."""

    text: str
    """Its token, in a form in which nothing is invisible."""

    probability: float
    """Behind its parent, in [0, 1]."""

    tip: str
    """What is told where the mouse rests on it, as plain text."""

    sequence: int | None
    """The best sequence that it is part of; None where all beams through it were dropped."""

    outcome: str
    """Behind the last token of a sequence: its place and its score; elsewhere empty."""

    ended: bool
    """Whether it ended its sequence."""


def placed_nodes(generation: Generation) -> list[PlacedNode]:
    """The drawing of a generation's tree; branches take the nearest free row below."""
    tree = generation.tree
    of_sequence: dict[int, int] = {}
    outcomes: dict[int, str] = {}
    for index, sequence in enumerate(generation.sequences):
        for node in tree.path(sequence.leaf):
            of_sequence.setdefault(node, index)
        outcomes[sequence.leaf] = f"{index + 1}: {sequence.score:.3f}"
    lanes = _lanes(tree.parents.tolist(), tree.steps.tolist(), of_sequence)
    placed = []
    for node in range(len(tree)):
        parent, step = int(tree.parents[node]), int(tree.steps[node])
        text = generation.texts[int(tree.ids[node])]
        probability = math.exp(float(tree.log_probs[node]))
        said = [
            repr(text),
            f"probability {percent(probability)}",
            f"log-probability so far {float(tree.totals[node]):.2f}",
            *(["ends here"] if bool(tree.ended[node]) else []),
            *(["dropped"] if node not in of_sequence else []),
        ]
        placed.append(
            PlacedNode(
                column=step,
                lane=lanes[node],
                parent=None if parent == PROMPT else (step - 1, lanes[parent]),
                text=visible(text, longest=12),
                probability=probability,
                tip=", ".join(said),
                sequence=of_sequence.get(node),
                outcome=outcomes.get(node, ""),
                ended=bool(tree.ended[node]),
            )
        )
    return placed


def _lanes(
    parents: Sequence[int], steps: Sequence[int], of_sequence: Mapping[int, int]
) -> dict[int, int]:
    """A row for each node: a child goes on in its parent's, its siblings branch off below."""
    children: dict[int, list[int]] = {}
    depth = dict(enumerate(steps))
    for node in range(len(parents) - 1, -1, -1):
        children.setdefault(parents[node], []).insert(0, node)
        if parents[node] != PROMPT:
            depth[parents[node]] = max(depth[parents[node]], depth[node])

    def order(node: int) -> tuple[int, int]:
        return (of_sequence.get(node, len(parents)), -depth[node])

    lanes: dict[int, int] = {}
    taken: dict[int, list[range]] = {}
    roots = sorted(children.get(PROMPT, []), key=order)
    waiting = [(child, 0) for child in reversed(roots)]
    while waiting:
        first, lowest = waiting.pop()
        chain = [first]
        while children.get(chain[-1]):
            chain.append(min(children[chain[-1]], key=order))
        room = range(steps[first] - 1, steps[chain[-1]] + 2)
        lane = lowest
        while any(_meet(room, each) for each in taken.get(lane, [])):
            lane += 1
        taken.setdefault(lane, []).append(room)
        lanes |= dict.fromkeys(chain, lane)
        # The last to be put in is the first to be placed: late branches stay near.
        for node in chain:
            others = sorted(children.get(node, []), key=order)[1:]
            waiting += [(other, lane + 1) for other in reversed(others)]
    return lanes


def _meet(one: range, other: range) -> bool:
    return one.start < other.stop and other.start < one.stop
