"""Which positions of each sequence to keep: chosen before anything is stored.

Positions count within a sequence's real tokens, BOS included; negative ones from its own end, so
`-1` (and `"last"`) is the last real token, never padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mi_toolkit.errors import PromptError

Positions = str | int | slice | Sequence[int] | Sequence[Sequence[int]] | None
"""None for all; one position (`"last"`, `-1`, `4`); a slice; several positions, the same of every
sequence; or a list of positions for each sequence."""

PADDING = -1


@dataclass(frozen=True, kw_only=True, eq=False)
class ChosenPositions:
    """The positions chosen of each sequence, side by side."""

    table: Int[Tensor, "sequence slot"]
    """Position within the sequence; -1 where a sequence has fewer than another."""

    single: bool
    """Whether one position was asked for: what is recorded then has no position axis."""

    @property
    def mask(self) -> Bool[Tensor, "sequence slot"]:
        """Where a slot holds a position."""
        return self.table != PADDING

    def part(self, start: int, stop: int) -> ChosenPositions:
        """Those of the sequences `start` to `stop`, in as many slots."""
        return ChosenPositions(table=self.table[start:stop], single=self.single)

    def cells(self) -> tuple[Int[Tensor, " row"], Int[Tensor, " row"], Int[Tensor, " row"]]:
        """Sequence, position and slot of each position chosen, sequence by sequence."""
        sequence, slot = self.mask.nonzero(as_tuple=True)
        return sequence, self.table[sequence, slot], slot


def choose_positions(positions: Positions, lengths: Int[Tensor, " sequence"]) -> ChosenPositions:
    """The positions of each sequence that `positions` names.

    Raises:
        PromptError: a sequence has no such position, or lists were given for another number of
            sequences.

    >>> choose_positions(slice(-2, None), torch.tensor([3, 1])).table
    tensor([[ 1,  2],
            [ 0, -1]])
    """
    rows = list(_rows(positions, lengths.tolist()))
    longest = max((len(row) for row in rows), default=0)
    table = [row + [PADDING] * (longest - len(row)) for row in rows]
    single = positions == "last" or isinstance(positions, int)
    return ChosenPositions(
        table=torch.tensor(table, dtype=torch.long).reshape(len(rows), longest), single=single
    )


def _rows(positions: Positions, lengths: list[int]) -> Iterator[list[int]]:
    if positions is None or isinstance(positions, slice):
        window = positions or slice(None)
        yield from (list(range(length))[window] for length in lengths)
        return
    if isinstance(positions, str):
        if positions != "last":
            raise PromptError(
                f"positions={positions!r} is not known: give 'last', a number, a slice, a list of "
                "numbers, or one list for each sequence."
            )
        positions = -1
    if isinstance(positions, int):
        positions = [positions]
    if positions and not isinstance(positions[0], int):
        if len(positions) != len(lengths):
            raise PromptError(
                f"{len(positions)} lists of positions were given for {len(lengths)} sequences."
            )
        each: Sequence[Sequence[int]] = positions  # type: ignore[assignment]
    else:
        each = [positions] * len(lengths)  # type: ignore[list-item]
    for index, (wanted, length) in enumerate(zip(each, lengths, strict=True)):
        yield [_within(position, length, index) for position in wanted]


def _within(position: int, length: int, sequence: int) -> int:
    if -length <= position < length:
        return position % length
    raise PromptError(
        f"Sequence {sequence} has no position {position}: it has {length} tokens (BOS included). "
        "A slice takes what there is."
    )
