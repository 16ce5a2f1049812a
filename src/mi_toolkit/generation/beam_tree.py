"""The tree of a beam search, rebuilt from what its steps looked at. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

PROMPT = -1
"""What stands for the prompt among a tree's parents: the root, which is no node."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """What one step of decoding looked at: the running beams and their best next tokens."""

    new_ids: Int[Tensor, "beam token"]
    """The tokens behind the prompt of each running beam."""

    top_ids: Int[Tensor, "beam choice"]
    """Each beam's most probable next tokens, best first."""

    top_log_probs: Float[Tensor, "beam choice"]
    """Their log-probabilities, in nats."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BeamTree:
    """Every beam that was kept or came to its end, as a tree of tokens under the prompt.

    A node is a token; nodes stand in the order of their steps.
    """

    ids: Int[Tensor, " node"]
    """The token."""

    parents: Int[Tensor, " node"]
    """The node before it; -1 where that is the prompt."""

    steps: Int[Tensor, " node"]
    """How many new tokens stand before it: 0 for the first."""

    log_probs: Float[Tensor, " node"]
    """Its log-probability behind its parent, in nats."""

    totals: Float[Tensor, " node"]
    """The sum of log-probabilities from the first new token up to it, in nats."""

    ended: Bool[Tensor, " node"]
    """Whether it ended its sequence, as an end-of-sequence token does."""

    def __len__(self) -> int:
        return len(self.ids)

    def path(self, node: int) -> list[int]:
        """The nodes from the first new token up to this one."""
        nodes = []
        while node != PROMPT:
            nodes.append(node)
            node = int(self.parents[node])
        return nodes[::-1]

    def find(self, ids: Sequence[int]) -> int:
        """The node that these new tokens lead to.

        Raises:
            KeyError: no beam went there.
        """
        children = {
            (int(parent), int(token)): node
            for node, (parent, token) in enumerate(zip(self.parents, self.ids, strict=True))
        }
        node = PROMPT
        for token in ids:
            node = children[node, int(token)]
        return node


class _Growing:
    """The nodes so far, and which of them the tokens of a beam that may go on lead to."""

    def __init__(self) -> None:
        self.nodes: list[tuple[int, int, int, float, float, bool]] = []
        self.at: dict[tuple[int, ...], int] = {(): PROMPT}

    def total(self, node: int) -> float:
        return 0.0 if node == PROMPT else self.nodes[node][4]

    def add(self, before: tuple[int, ...], token: int, log_prob: float, *, ended: bool) -> None:
        parent = self.at[before]
        total = self.total(parent) + log_prob
        if not ended:
            self.at[(*before, token)] = len(self.nodes)
        self.nodes.append((token, parent, len(before), log_prob, total, ended))


def beam_tree(steps: Sequence[Step], *, num_beams: int, eos_ids: Sequence[int]) -> BeamTree:
    """The tree of the beams that `steps` looked at.

    A step keeps the best `num_beams` of all beams' continuations that do not end; those that end
    count where they stand among the best `num_beams` of all. So decides Hugging Face's search.
    """
    tree = _Growing()
    for index, step in enumerate(steps):
        running = _running(step, tree)
        best = _candidates(step, running, tree)
        ends = [each for each in best[:num_beams] if each[1] in eos_ids]
        if index + 1 < len(steps):
            # What was kept is on record: the sums here could order two near-equal ones otherwise.
            kept_ids = {tuple(ids) for ids in steps[index + 1].new_ids.tolist()}
            kept = [each for each in best if (*each[0], each[1]) in kept_ids and each not in ends]
        else:
            kept = [each for each in best[:num_beams] if each not in ends]
        for before, token, log_prob in [*kept, *ends]:
            tree.add(before, token, log_prob, ended=token in eos_ids)
    columns = list(zip(*tree.nodes, strict=True))
    return BeamTree(
        ids=torch.tensor(columns[0]),
        parents=torch.tensor(columns[1]),
        steps=torch.tensor(columns[2]),
        log_probs=torch.tensor(columns[3]),
        totals=torch.tensor(columns[4]),
        ended=torch.tensor(columns[5]),
    )


def _running(step: Step, tree: _Growing) -> dict[tuple[int, ...], int]:
    """The row of each running beam; before the first token all rows are the prompt, one counts."""
    rows: dict[tuple[int, ...], int] = {}
    for row, ids in enumerate(step.new_ids.tolist()):
        if tuple(ids) in tree.at:
            rows.setdefault(tuple(ids), row)
    return rows


def _candidates(
    step: Step, running: dict[tuple[int, ...], int], tree: _Growing
) -> list[tuple[tuple[int, ...], int, float]]:
    """Continuations of the running beams, the most probable first: what before, token, its own."""
    found = []
    for before, row in running.items():
        total = tree.total(tree.at[before])
        choices = zip(step.top_ids[row].tolist(), step.top_log_probs[row].tolist(), strict=True)
        found += [(total + log_prob, before, token, log_prob) for token, log_prob in choices]
    found.sort(key=lambda each: -each[0])
    return [(before, token, log_prob) for _, before, token, log_prob in found]
