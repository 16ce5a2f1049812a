"""Masks by hand: every behaviour's target keys on sequences short enough to check by eye."""

from __future__ import annotations

import pytest
import torch

from mi_toolkit.heads.behaviours import BEHAVIOURS
from mi_toolkit.heads.kinds import MaskBehaviour
from tests.dense_masks import visible

A, B, C, BOS = 5, 6, 7, 0


def targets(mask: torch.Tensor) -> dict[int, list[int]]:
    """The target keys of each query that has any."""
    return {q: row.nonzero().flatten().tolist() for q, row in enumerate(mask) if row.any()}


def mask(name: str, tokens: torch.Tensor, has_bos: bool) -> torch.Tensor:
    behaviour = BEHAVIOURS[name]
    assert isinstance(behaviour, MaskBehaviour)
    return behaviour.targets(tokens, has_bos)


def ids(*tokens: int) -> torch.Tensor:
    return torch.tensor(tokens)


def test_previous_token_starts_behind_the_first_real_token() -> None:
    assert targets(mask("previous_token", ids(A, B, C), False)) == {1: [0], 2: [1]}
    assert targets(mask("previous_token", ids(BOS, A, B, C), True)) == {2: [1], 3: [2]}


def test_current_token_counts_the_same_queries_as_previous_token() -> None:
    assert targets(mask("current_token", ids(A, B, C), False)) == {1: [1], 2: [2]}
    assert targets(mask("current_token", ids(BOS, A, B, C), True)) == {2: [2], 3: [3]}


@pytest.mark.parametrize("has_bos", [True, False])
def test_first_token_is_position_zero_with_or_without_bos(has_bos: bool) -> None:
    assert targets(mask("first_token", ids(BOS, A, B), has_bos)) == {1: [0], 2: [0]}


def test_duplicate_token_marks_all_earlier_copies() -> None:
    assert targets(mask("duplicate_token", ids(A, B, A, A), False)) == {2: [0], 3: [0, 2]}


def test_a_bos_at_zero_is_nobodys_earlier_copy() -> None:
    sequence = ids(BOS, A, BOS, A)
    assert targets(mask("duplicate_token", sequence, True)) == {3: [1]}
    assert targets(mask("duplicate_token", sequence, False)) == {2: [0], 3: [1]}


def test_induction_marks_what_followed_every_earlier_copy() -> None:
    assert targets(mask("induction", ids(A, B, C, A, B, A), False)) == {3: [1], 4: [2], 5: [1, 4]}


def test_induction_leaves_the_query_itself_out_at_adjacent_repeats() -> None:
    assert targets(mask("induction", ids(A, A, A), False)) == {2: [1]}


def test_induction_ignores_what_followed_the_bos() -> None:
    assert targets(mask("induction", ids(BOS, A, BOS), True)) == {}
    assert targets(mask("induction", ids(BOS, A, BOS), False)) == {2: [1]}


def test_the_last_token_is_not_before_the_first() -> None:
    # A roll by one brings the last id to position 0; it must not count as its predecessor.
    assert targets(mask("induction", ids(A, B, C), False)) == {}


def test_a_window_counts_the_query_itself() -> None:
    assert targets(visible(4, 2)) == {0: [0], 1: [0, 1], 2: [1, 2], 3: [2, 3]}


@pytest.mark.parametrize(
    "behaviour",
    [b for b in BEHAVIOURS.values() if isinstance(b, MaskBehaviour) and not b.reads_text],
    ids=lambda b: b.name,
)
@pytest.mark.parametrize("has_bos", [True, False])
def test_no_target_is_in_the_future(behaviour: MaskBehaviour, has_bos: bool) -> None:
    sequence = torch.randint(0, 5, (40,), generator=torch.Generator().manual_seed(1))
    places = {"io": 4, "s2": 9, "end": 30, "needle": 3, "answer": 30}
    roles = {role: range(place, place + 5) for role, place in places.items()}
    marked = behaviour.targets(sequence, has_bos, **{name: roles[name] for name in behaviour.roles})
    assert marked.any()
    assert not (marked & ~visible(40, None)).any()
