"""Rows of token ids to train on, each beginning with BOS.

`text` rows teach language; of `answers` rows, text too, only the answers are targets.
`repeat` rows (a random segment, again and again) teach induction.
`pair` rows (pairs A B, fixed within a row, in changing order) teach the previous-token head:
only the one preceding token tells what comes next, whereas in a long repeat any earlier one does.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import torch
from torch import Tensor

IGNORED = -100
"""The label that cross-entropy leaves out."""


@dataclass(kw_only=True)
class RowSource:
    """Draws rows of each kind; two sources with the same seed draw the same rows.

    Every kind is a method of `rows`, `length` and `known`, from how many of the ids the random
    kinds draw; it returns ids and labels, each `rows length`.
    """

    documents: list[list[tuple[int, bool]]]
    """Token ids of each document, none of them special, and whether each is of an answer."""
    newline: int
    """The id put between documents."""
    vocabulary_size: int
    """Ids 1 and up are drawn for the random kinds; 0 is BOS."""
    seed: int
    generator: torch.Generator = field(init=False)
    rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        """Seed both generators."""
        self.generator = torch.Generator().manual_seed(self.seed)
        self.rng = random.Random(self.seed)

    def text(self, rows: int, length: int, known: int) -> tuple[Tensor, Tensor]:
        """Documents joined by newlines; every position is a target; `known` has no effect."""
        ids, _ = self._packed(rows, length)
        return ids, ids.clone()

    def answers(self, rows: int, length: int, known: int) -> tuple[Tensor, Tensor]:
        """Documents joined by newlines; the answers are targets; `known` has no effect."""
        ids, answered = self._packed(rows, length)
        return ids, torch.where(answered, ids, IGNORED)

    def _packed(self, rows: int, length: int) -> tuple[Tensor, Tensor]:
        """Ids, and whether each is of an answer."""
        ids = torch.zeros(rows, length, dtype=torch.long)
        answered = torch.zeros(rows, length, dtype=torch.bool)
        for row, mark in zip(ids, answered, strict=True):
            packed: list[tuple[int, bool]] = []
            while len(packed) < length:
                packed += [*self.rng.choice(self.documents), (self.newline, False)]
            tokens, marks = zip(*packed[: length - 1], strict=True)
            row[1:] = torch.tensor(tokens)
            mark[1:] = torch.tensor(marks)
        return ids, answered

    def repeat(self, rows: int, length: int, known: int) -> tuple[Tensor, Tensor]:
        """A random segment repeated to the end; targets from its second copy on."""
        ids = torch.zeros(rows, length, dtype=torch.long)
        labels = torch.full_like(ids, IGNORED)
        for row, label in zip(ids, labels, strict=True):
            period = self.rng.randint(3, min(known, (length - 1) // 2))
            segment = self._distinct(period, known)
            row[1:] = segment.repeat(length // period + 1)[: length - 1]
            label[2 + period :] = row[2 + period :]
        return ids, labels

    def pair(self, rows: int, length: int, known: int) -> tuple[Tensor, Tensor]:
        """Pairs in random order; targets are the second tokens of pairs seen before."""
        ids = torch.zeros(rows, length, dtype=torch.long)
        labels = torch.full_like(ids, IGNORED)
        slots = length // 2
        for row, label in zip(ids, labels, strict=True):
            count = self.rng.randint(3, min(known // 2, slots // 2, 32))
            pairs = self._distinct(2 * count, known).view(count, 2)
            order = torch.randint(count, (slots,), generator=self.generator)
            flat = pairs[order].flatten()[: length - 1]
            row[1 : 1 + len(flat)] = flat
            seen: set[int] = set()
            for slot, which in enumerate(order.tolist()):
                position = 2 * slot + 2
                if which in seen and position < length:
                    label[position] = row[position]
                seen.add(which)
        return ids, labels

    def rows(
        self, kinds: dict[str, int], length: int, known: int
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Ids and labels of so many rows of each kind."""
        makers = {
            "text": self.text,
            "answers": self.answers,
            "repeat": self.repeat,
            "pair": self.pair,
        }
        return {kind: makers[kind](count, length, known) for kind, count in kinds.items()}

    def _distinct(self, count: int, known: int) -> Tensor:
        """`count` different ids among the first `known` of a fixed shuffle."""
        order = torch.randperm(known, generator=self.generator)[:count]
        return self._shuffled()[order]

    def _shuffled(self) -> Tensor:
        """All ids but BOS, in an order that depends on the vocabulary size only."""
        fixed = torch.Generator().manual_seed(self.vocabulary_size)
        return 1 + torch.randperm(self.vocabulary_size - 1, generator=fixed)
