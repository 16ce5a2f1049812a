"""Sets that are drawn next to a chosen one: as many in each group, distinct, all alike likely."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from mi_toolkit.core import random_sets as drawing
from mi_toolkit.core.head import Head
from mi_toolkit.core.random_sets import n_sets_like, random_control, random_sets

CHOSEN = (Head(3, 1), Head(0, 2), Head(3, 0))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def layers(heads: tuple[Head, ...]) -> Counter[int]:
    return Counter(head.layer for head in heads)


def test_the_number_of_sets_is_the_product_over_layers() -> None:
    assert n_sets_like(CHOSEN, n_heads=4) == 4 * math.comb(4, 2)
    assert n_sets_like([], n_heads=4) == 1


@pytest.mark.parametrize("n_sets", [3, 5, 6, 23, 40])
def test_sets_are_distinct_in_order_of_the_same_layers_and_without_the_chosen_one(
    n_sets: int,
) -> None:
    found = random_sets(CHOSEN, n_heads=4, n_sets=n_sets, generator=generator())
    assert found.n_distinct == 24
    assert list(found.sets) == sorted(found.sets) or not found.are_all
    assert len(found.sets) == min(n_sets, 23)
    assert found.are_all == (n_sets >= 23)
    assert len(set(found.sets)) == len(found.sets)
    assert tuple(sorted(CHOSEN)) not in found.sets
    for heads in found.sets:
        assert heads == tuple(sorted(heads))
        assert layers(heads) == layers(CHOSEN)
        assert all(0 <= head.head < 4 for head in heads)
        assert len(set(heads)) == 3


def test_as_many_as_are_asked_for_are_drawn_though_many_draws_are_alike() -> None:
    pair = [Head(0, 0), Head(0, 1)]
    found = random_sets(pair, n_heads=42, n_sets=200, generator=generator())
    assert found.n_distinct - 1 > 4 * 200
    assert len(set(found.sets)) == 200


def test_where_the_set_is_the_only_one_there_is_none_to_draw() -> None:
    every = [Head(1, index) for index in range(3)]
    found = random_sets(every, n_heads=3, n_sets=5, generator=generator())
    assert (found.sets, found.n_distinct, found.are_all) == ((), 1, True)


def test_all_sets_are_made_where_they_are_at_most_four_times_as_many_as_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[str] = []
    every, drawn = drawing._every_set, drawing._drawn
    monkeypatch.setattr(drawing, "_every_set", lambda *a: made.append("every") or every(*a))
    monkeypatch.setattr(drawing, "_drawn", lambda *a: made.append("drawn") or drawn(*a))
    one = [Head(0, 0)]
    random_sets(one, n_heads=9, n_sets=2, generator=generator())
    assert made == ["every"]
    made.clear()
    random_sets(one, n_heads=10, n_sets=2, generator=generator())
    assert set(made) == {"drawn"}


@pytest.mark.parametrize("n_heads", [9, 40])
def test_each_set_is_as_likely_as_any_other(n_heads: int) -> None:
    one, counted = [Head(2, 0)], Counter[int]()
    for seed in range(600):
        found = random_sets(one, n_heads=n_heads, n_sets=2, generator=generator(seed))
        counted.update(heads[0].head for heads in found.sets)
    expected = 1200 / (n_heads - 1)
    assert set(counted) == set(range(1, n_heads))
    assert all(abs(n - expected) < 5 * expected**0.5 for n in counted.values())


def test_equal_generators_draw_equal_sets() -> None:
    for n_heads in (4, 40):
        asked = {"n_heads": n_heads, "n_sets": 6}
        one, other = (random_sets(CHOSEN, **asked, generator=generator()) for _ in range(2))
        assert one == other
        assert one != random_sets(CHOSEN, **asked, generator=generator(1))


def test_control_weights_are_as_many_of_each_matrix_within_it_or_where_it_is_marked() -> None:
    top = [("a", 0, 0), ("b", 1, 1), ("a", 2, 2), ("c", 0, 0)]
    shapes = {"a": (3, 4), "b": (100, 7), "c": (2, 5)}
    marked = torch.zeros(2, 5, dtype=torch.bool)
    marked[1, 3] = True
    found = random_control(top, shapes, generator(), {"c": marked})
    assert Counter(name for name, _, _ in found) == {"a": 2, "b": 1, "c": 1}
    assert found[-1] == ("c", 1, 3)
    for name, row, column in found:
        assert 0 <= row < shapes[name][0]
        assert 0 <= column < shapes[name][1]


@pytest.mark.parametrize("count", [3, 9])
def test_equal_generators_draw_equal_weights_whatever_else_is_random(count: int) -> None:
    marked = torch.ones(3, 4, dtype=torch.bool)
    for within in ({}, {"a": marked}):
        drawn = [
            random_control([("a", 0, 0)] * count, {"a": (3, 4)}, generator(seed), within)
            for seed in [0] * 5 + [1]
        ]
        assert all(each == drawn[0] for each in drawn[:5])
        assert drawn[5] != drawn[0]


@pytest.mark.parametrize("count", [1, 6, 7, 12])
def test_weights_are_drawn_without_replacement_and_each_place_can_be(count: int) -> None:
    seen: set[tuple[str, int, int]] = set()
    for seed in range(80):
        found = random_control([("a", 0, 0)] * count, {"a": (3, 4)}, generator(seed))
        assert len(set(found)) == len(found) == count
        seen |= set(found)
    assert len(seen) == 12


def test_few_of_many_are_drawn_without_a_permutation(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> torch.Tensor:
        raise AssertionError("a permutation of all")

    monkeypatch.setattr(torch, "randperm", refuse)
    assert len(random_control([("a", 0, 0)] * 6, {"a": (3, 4)}, generator())) == 6
    with pytest.raises(AssertionError, match="a permutation"):
        random_control([("a", 0, 0)] * 7, {"a": (3, 4)}, generator())
