"""Scores on patterns whose answer is known: perfect, even, sink, mixed, windowed heads."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mi_toolkit.core.tokens import from_sequences
from mi_toolkit.heads.behaviours import BEHAVIOURS
from mi_toolkit.heads.kinds import MaskBehaviour
from mi_toolkit.heads.plan import compared_pairs
from mi_toolkit.heads.scores import (
    PatternRows,
    diffuse_terms,
    lift,
    locality_terms,
    positional_terms,
)
from tests import dense_masks
from tests.ideal_patterns import (
    even_pattern,
    figures,
    pattern_of_mask,
    random_pattern,
    sink_pattern,
)

LENGTHS = [8, 32, 128, 512]
# Those that read the text are in test_relations.py.
MASKS = [
    behaviour
    for behaviour in BEHAVIOURS.values()
    if isinstance(behaviour, MaskBehaviour) and not behaviour.roles and not behaviour.reads_text
]


def twice(n: int) -> Tensor:
    """Distinct ids, given twice: every behaviour has eligible queries."""
    return torch.arange(n // 2).repeat(2)


def value(terms: tuple[Tensor, Tensor]) -> float:
    numerator, denominator = terms
    return float(numerator.sum() / denominator.sum())


def rows(pattern: Tensor, window: int | None = None) -> PatternRows:
    return PatternRows(patterns=pattern[None], window=window)


def measured(
    behaviour: MaskBehaviour, ids: Tensor, pattern: Tensor, window: int | None = None
) -> tuple[float, float, float]:
    """Score, null and lift of a head on one sequence without a BOS."""
    batch = from_sequences([ids.tolist()], None)
    found = figures(behaviour, batch, [pattern[None]], window)
    return float(found.score), float(found.null), float(found.lift)


def named(name: str) -> MaskBehaviour:
    behaviour = BEHAVIOURS[name]
    assert isinstance(behaviour, MaskBehaviour)
    return behaviour


@pytest.mark.parametrize("behaviour", MASKS, ids=lambda b: b.name)
@pytest.mark.parametrize("length", LENGTHS)
def test_a_perfect_head_scores_one(behaviour: MaskBehaviour, length: int) -> None:
    pattern = pattern_of_mask(behaviour.targets(twice(length), False))
    assert measured(behaviour, twice(length), pattern)[0] == pytest.approx(1)


@pytest.mark.parametrize("behaviour", MASKS, ids=lambda b: b.name)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("window", [None, 6])
def test_an_even_head_is_at_chance_at_every_length(
    behaviour: MaskBehaviour, length: int, window: int | None
) -> None:
    visible = dense_masks.visible(length, window)
    mask = behaviour.targets(twice(length), False) & visible
    score, null, lifted = measured(behaviour, twice(length), even_pattern(length, window), window)
    if not mask.any():
        assert math.isnan(score)
        return
    assert null == pytest.approx(float(dense_masks.mask_null(mask, visible)))
    assert lifted == pytest.approx(0, abs=1e-6)


def test_half_a_head_scores_half() -> None:
    mask = dense_masks.previous_token(twice(64), False)
    half = (pattern_of_mask(mask) + sink_pattern(64)) / 2
    # Query 1 attends to position 0 either way: it is both its previous token and the sink.
    score, _, _ = measured(named("previous_token"), twice(64), half)
    assert score == pytest.approx((62 * 0.5 + 1) / 63)


def test_attention_to_several_copies_adds_up() -> None:
    pattern = torch.eye(4)
    pattern[3] = torch.tensor([0.2, 0.3, 0.1, 0.4])
    # Query 1 looks at itself (0 on its copy), query 3 gives 0.2 + 0.3 to its two copies.
    score, _, _ = measured(named("duplicate_token"), torch.tensor([5, 5, 6, 5]), pattern)
    assert score == pytest.approx((0 + 0.5) / 2)


def test_chance_that_is_certain_has_no_lift() -> None:
    assert math.isnan(lift(torch.tensor(1.0), torch.tensor(1.0)))


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", ["current_token", "previous_token"])
def test_heads_that_look_next_door_are_wholly_local(name: str, length: int) -> None:
    pattern = pattern_of_mask(getattr(dense_masks, name)(torch.arange(length), False))
    # Row 1 of a previous-token head is all sink, but locality starts at row 3.
    assert value(locality_terms(rows(pattern))) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("length", LENGTHS)
def test_even_attention_has_locality_zero(length: int) -> None:
    assert value(locality_terms(rows(even_pattern(length)))) == pytest.approx(0, abs=1e-5)


def test_looking_farther_than_chance_is_below_zero() -> None:
    far = torch.zeros(32, 32)
    far[:, 1] = 1
    far[0] = torch.eye(32)[0]
    assert value(locality_terms(rows(far))) < -0.5


def test_a_windowed_layer_is_local_though_it_spreads_evenly_in_its_window() -> None:
    assert value(locality_terms(rows(even_pattern(256, 16), window=16))) > 0.8


def test_the_sink_does_not_count_as_far() -> None:
    near = pattern_of_mask(dense_masks.previous_token(torch.arange(64), False))
    resting = 0.9 * sink_pattern(64) + 0.1 * near
    assert value(locality_terms(rows(resting))) == pytest.approx(1, abs=1e-5)


def test_a_pure_sink_has_no_locality() -> None:
    numerator, denominator = locality_terms(rows(sink_pattern(64)))
    assert denominator.sum() == 0
    assert numerator.sum() == 0


def test_equal_rows_on_two_texts_are_wholly_positional() -> None:
    pattern = random_pattern(20, seed=0)
    assert value(positional_terms(rows(pattern), rows(pattern))) == pytest.approx(1)


def test_rows_without_a_common_key_are_not_positional() -> None:
    here, there = torch.zeros(12, 12), torch.zeros(12, 12)
    here[:, 1] = 1
    there[:, 2] = 1
    assert value(positional_terms(rows(here), rows(there))) == pytest.approx(0)


def test_positional_compares_the_rows_that_both_have() -> None:
    long, short = even_pattern(30), even_pattern(10)
    numerator, denominator = positional_terms(rows(long), rows(short))
    assert denominator[0].nonzero().flatten().tolist() == list(range(2, 10))
    cut = positional_terms(rows(long[:10, :10]), rows(short))
    assert numerator[0, :10].equal(cut.numerator[0])


def test_the_last_sequence_has_nothing_to_be_compared_with() -> None:
    assert positional_terms(rows(random_pattern(10, seed=0)), None).denominator.sum() == 0


@pytest.mark.parametrize("length", LENGTHS[1:])
@pytest.mark.parametrize("window", [None, 6])
def test_even_attention_is_wholly_diffuse_under_any_window(length: int, window: int | None) -> None:
    found = value(diffuse_terms(rows(even_pattern(length, window), window)))
    assert found == pytest.approx(1, abs=1e-5)


def test_attention_to_one_key_is_not_diffuse() -> None:
    assert value(diffuse_terms(rows(sink_pattern(32)))) == pytest.approx(0)


def test_attention_spread_evenly_over_two_keys_is_log_two_over_log_n() -> None:
    pattern = torch.zeros(9, 9)
    pattern[:, :2] = 0.5
    assert value(diffuse_terms(rows(pattern))) == pytest.approx(math.log(2) / math.log(9))


@given(
    tokens=st.lists(st.integers(0, 6), min_size=2, max_size=24),
    renaming=st.permutations(range(7)),
    seed=st.integers(0, 1000),
    name=st.sampled_from([b.name for b in MASKS]),
)
def test_renaming_ids_changes_no_score_and_scores_are_shares(
    tokens: list[int], renaming: list[int], seed: int, name: str
) -> None:
    pattern = random_pattern(len(tokens), seed=seed)
    behaviour, ids = named(name), torch.tensor(tokens)
    here = measured(behaviour, ids, pattern)[0]
    renamed = torch.tensor([renaming[token] for token in tokens])
    assert measured(behaviour, renamed, pattern)[0] == pytest.approx(here, nan_ok=True)
    assert math.isnan(here) or 0 <= here <= 1 + 1e-6
    # Blocks and lists of keys come to what the whole mask on the whole pattern gives.
    wanted = dense_masks.mask_score(pattern, behaviour.targets(ids, False))
    assert here == pytest.approx(float(wanted), abs=1e-6, nan_ok=True)


def test_each_text_is_compared_with_four_others_whatever_the_order_of_the_prompts() -> None:
    texts = [[1, 5 + text, 9 + text] for text in range(12)]

    def compared(order: list[int]) -> set[frozenset[int]]:
        pairs = compared_pairs(from_sequences([texts[index] for index in order], 1))
        return {frozenset((order[one], order[other])) for one, other in pairs}

    pairs = compared(list(range(12)))
    assert len(pairs) == 24
    assert all(sum(text in pair for pair in pairs) == 4 for text in range(12))
    assert compared(list(range(12))[::-1]) == pairs
    # Up to five texts all pairs; equal ones are one, and one alone has nothing to be compared with.
    assert len(compared(list(range(5)))) == 10
    assert len(compared_pairs(from_sequences([texts[0], texts[1], texts[0]], 1))) == 1
    assert compared_pairs(from_sequences([texts[0], texts[0]], 1)) == ()
