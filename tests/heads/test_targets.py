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
from mi_toolkit.heads.targets import KeyLists, Targets, marked_keys, mask_of
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


def test_the_square_of_lists_has_every_query_and_is_told_the_texts() -> None:
    def own_key_of_a(ids: torch.Tensor, has_bos: bool, *, texts: list[str]) -> KeyLists:
        is_a = torch.tensor([text == "a" for text in texts])
        return marked_keys(torch.diag(is_a))

    square = mask_of(own_key_of_a, torch.tensor([4, 5, 4]), False, texts=["a", "b", "a"])
    assert square.nonzero().tolist() == [[0, 0], [2, 2]]


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


def test_a_query_of_the_end_looks_at_the_one_other_role() -> None:
    ids = torch.arange(7)
    found = targets.end_to_name(ids, False, end=range(5, 7), io=range(1, 3))
    wanted = torch.zeros(7, 7, dtype=torch.bool)
    wanted[5:7, 1:3] = True
    assert torch.equal(found, wanted)
    with pytest.raises(ValueError, match="too many values"):
        targets.end_to_name(ids, False, end=range(5, 7), io=range(1, 3), s2=range(3, 4))


def test_a_hidden_token_is_copied_from_where_it_hides() -> None:
    ids = torch.tensor([1, 7, 8, 7, 2, 7, 8, 9])
    found = targets.copied_token(ids, False, needle=range(1, 4), answer=range(5, 7))
    # The queries 4 and 5 predict the 7 and the 8 of the answer; 7 hides twice.
    assert found.nonzero().tolist() == [[4, 1], [4, 3], [5, 2]]
    later = targets.copied_token(ids, False, needle=range(1, 7), answer=range(2, 4))
    assert later.nonzero().tolist() == [[2, 1]]  # a key after its query is none
    twice = torch.tensor([1, 7, 7])
    again = targets.copied_token(twice, False, needle=range(1, 2), answer=range(2, 3))
    assert again.nonzero().tolist() == [[1, 1]]  # its own key is one


def test_blocks_of_a_pattern_are_read_from_where_they_begin() -> None:
    ids = torch.tensor([5, 6, 5, 6, 5])
    lists = [BEHAVIOURS["duplicate_token"].sparse(ids, False)]
    found = Targets(lists=lists, length=5, window=None)
    pattern = torch.arange(100.0, 130).view(6, 5)  # queries, of which 2 to 4 are read
    cell, slot = found.gathered(2, 3, 0, 5, 6)
    summed = torch.zeros(18).index_add_(0, slot, pattern[2:5].flatten()[cell]).view(3, 6)
    copies, own, sink = summed.tolist()
    assert copies == [0, 0, 110, 116, 120 + 122, 0]
    assert own == [0, 0, 112, 118, 124, 0]
    assert sink == [0, 0, 110, 115, 120, 0]
    # Without the first key in the block, nothing of the sink is in it.
    cell, slot = found.gathered(2, 2, 2, 3, 6)
    assert (slot >= 12).sum() == 0
    assert found.gathered(2, 2, 2, 3, 6)[0] is cell
    # Under a window a block may begin at the first key that its queries see.
    cell, slot = Targets(lists=lists, length=5, window=3).gathered(4, 1, 2, 3, 6)
    part = torch.zeros(18).index_add_(0, slot, pattern[4, 2:][cell]).view(3, 6)
    assert part[:, 4].tolist() == [122, 124, 0]


def test_no_mask_has_no_cell() -> None:
    cells = Targets(lists=[], length=4, window=None).cells(0, 4)
    assert [column.tolist() for column in cells] == [[], [], []]
    assert {column.dtype for column in cells} == {torch.long}
