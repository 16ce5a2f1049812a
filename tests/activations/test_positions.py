from __future__ import annotations

import pytest
import torch

from mi_toolkit.activations.hooks import choose_positions
from mi_toolkit.core.errors import PromptError

LENGTHS = torch.tensor([4, 2])


@pytest.mark.parametrize(
    ("positions", "table"),
    [
        (None, [[0, 1, 2, 3], [0, 1, -1, -1]]),
        ("last", [[3], [1]]),
        (-2, [[2], [0]]),
        (0, [[0], [0]]),
        (slice(1, None), [[1, 2, 3], [1, -1, -1]]),
        (slice(-3, None, 2), [[1, 3], [0, -1]]),
        (slice(None, None, -1), [[3, 2, 1, 0], [1, 0, -1, -1]]),
        ([0, -1], [[0, 3], [0, 1]]),
        ([[0, 3], [1]], [[0, 3], [1, -1]]),
        (slice(5, 9), [[], []]),
    ],
)
def test_positions_count_within_each_sequences_own_tokens(positions, table) -> None:
    assert choose_positions(positions, LENGTHS).table.tolist() == table


def test_one_position_has_no_axis_and_several_have_one() -> None:
    assert choose_positions("last", LENGTHS).single
    assert choose_positions(1, LENGTHS).single
    assert not choose_positions([1], LENGTHS).single


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        (2, r"Sequence 1 has no position 2: it has 2 tokens"),
        ([0, -3], r"Sequence 1 has no position -3"),
        ([[0]], "1 lists of positions were given for 2 sequences"),
        ("first", "positions='first' is not known"),
    ],
)
def test_a_position_that_is_not_there_is_an_error(positions, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        choose_positions(positions, LENGTHS)
