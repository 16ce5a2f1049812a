"""Target keys as lists, against the squares of booleans that define them."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mi_toolkit.core.sight import visible_keys
from mi_toolkit.heads import targets
from mi_toolkit.heads.behaviours import BEHAVIOURS, offset
from mi_toolkit.heads.kinds import MaskBehaviour
from mi_toolkit.heads.targets import Targets, marked_keys
from tests import dense_masks
from tests.dense_masks import visible

DEFINED = {
    "previous_token": dense_masks.previous_token,
    "current_token": dense_masks.current_token,
    "first_token": dense_masks.first_token,
    "duplicate_token": dense_masks.duplicate_token,
    "induction": dense_masks.induction,
    "offset_3": partial(dense_masks.fixed_offset, distance=3),
}
SPARSE = [
    behaviour
    for behaviour in BEHAVIOURS.values()
    if isinstance(behaviour, MaskBehaviour) and behaviour.sparse and not behaviour.reads_text
]


def square(found: Targets, mask: int) -> torch.Tensor:
    """The targets of one mask, marked in a square."""
    cells = found.cells(0, found.length)
    marked = torch.zeros(found.length, found.length, dtype=torch.bool)
    marked[cells.query[cells.mask == mask], cells.key[cells.mask == mask]] = True
    assert int((cells.mask == mask).sum()) == int(marked.sum()), "a key was listed twice"
    return marked


def test_every_mask_of_the_standard_protocol_needs_no_square() -> None:
    named = {"previous_token", "current_token", "first_token", "duplicate_token", "induction"}
    assert named <= {behaviour.name for behaviour in SPARSE}
    assert offset(3).sparse is not None


@given(
    ids=st.lists(st.integers(0, 4), min_size=1, max_size=30),
    has_bos=st.booleans(),
    window=st.sampled_from([None, 1, 2, 7]),
)
def test_lists_hold_the_same_keys_as_squares(
    ids: list[int], has_bos: bool, window: int | None
) -> None:
    tokens, behaviours = torch.tensor(ids), [*SPARSE, offset(3)]
    found = Targets(
        lists=[behaviour.sparse(tokens, has_bos) for behaviour in behaviours],
        length=len(ids),
        window=window,
    )
    for index, behaviour in enumerate(behaviours):
        mask = DEFINED[behaviour.name](tokens, has_bos)
        assert torch.equal(behaviour.targets(tokens, has_bos), mask), behaviour.name
        wanted = mask & visible(len(ids), window)
        assert torch.equal(square(found, index), wanted), behaviour.name
        assert torch.equal(found.n_keys[index], wanted.sum(dim=-1)), behaviour.name


@given(ids=st.lists(st.integers(0, 3), min_size=1, max_size=20))
def test_a_square_comes_back_from_its_lists(ids: list[int]) -> None:
    mask = BEHAVIOURS["duplicate_token"].targets(torch.tensor(ids), False)
    found = Targets(lists=[marked_keys(mask)], length=len(ids), window=None)
    assert torch.equal(square(found, 0), mask)


@pytest.mark.parametrize("kept", [0, 2**20])
def test_blocks_of_queries_hold_the_cells_of_the_whole(
    kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "KEPT_CELLS", kept)
    ids = torch.arange(7).repeat(10)
    lists = [behaviour.sparse(ids, False) for behaviour in SPARSE]
    found = Targets(lists=lists, length=70, window=40)
    whole = {tuple(cell) for cell in torch.stack(found.cells(0, 70), dim=1).tolist()}
    parts = [
        tuple(cell)
        for start in range(0, 70, 32)
        for cell in torch.stack(found.cells(start, min(start + 32, 70)), dim=1).tolist()
    ]
    assert len(parts) == len(whole)
    assert set(parts) == whole


def test_a_window_shows_as_many_keys_as_it_is_wide() -> None:
    assert visible_keys(5, 3).tolist() == [1, 2, 3, 3, 3]
    assert visible_keys(3, None).tolist() == [1, 2, 3]
