from __future__ import annotations

import math

import pytest

from mi_toolkit.compare.agreement import (
    NoText,
    agreement_of,
    agrees,
    boundaries,
    chance_agreement,
    continues,
    own_accuracy,
    shared_positions,
)


def test_a_boundary_is_where_a_token_ends_and_no_other_goes_on() -> None:
    #  "abcde" as ab|cde, and as a|bc|de: both end a token at 5 alone
    one, other = boundaries([(0, 2), (2, 5)]), boundaries([(0, 1), (1, 3), (3, 5)])
    assert (one, other) == ({2: 0, 5: 1}, {1: 0, 3: 1, 5: 2})
    assert one.keys() & other.keys() == {5}


def test_within_a_character_of_several_tokens_there_is_no_boundary() -> None:
    assert boundaries([(0, 1), (1, 2), (1, 2), (1, 2), (2, 4)]) == {1: 0, 2: 3, 4: 4}
    # "aéb" whose é is half in the first token and half in the second: nothing ends after é
    assert boundaries([(0, 2), (1, 3)]) == {3: 1}


def test_a_space_that_belongs_to_the_next_token_leaves_the_boundary_before_it() -> None:
    # " cat" with its span trimmed to "cat", as some tokenizers report it
    assert boundaries([(0, 3), (4, 7)]) == {3: 0, 7: 1}


@pytest.mark.parametrize(
    ("one", "other", "agree"),
    [
        (" the", " the", True),
        (" the", " them", True),
        (" t", " them", True),
        (" the", "the", False),
        (" the", " a", False),
        ("", "", True),
        ("", " the", False),
    ],
)
def test_continuations_agree_where_one_begins_the_other(one: str, other: str, agree: bool) -> None:
    assert agrees(one, other) is agree
    assert agrees(other, one) is agree


def test_positions_that_one_model_alone_has_or_that_have_no_text_are_left_out() -> None:
    one = {1: "a", 3: "b", 5: NoText(is_next=True), 7: "c"}
    other = {3: "x", 5: "y", 7: "z", 9: "w"}
    assert shared_positions(one, other) == [("b", "x"), ("c", "z")]


def test_chance_is_the_mean_agreement_over_all_ways_to_pair() -> None:
    pairs = [("a", "ab"), ("ab", "a"), ("b", "c"), ("", ""), ("abc", "ab"), ("b", "")]
    every = [agrees(one, other) for one, _ in pairs for _, other in pairs]
    assert chance_agreement(pairs) == pytest.approx(sum(every) / len(every))
    assert math.isnan(chance_agreement([]))


def test_a_model_is_right_where_its_token_goes_on_as_the_text_does() -> None:
    assert continues("the cat sat", 3, " cat")
    assert not continues("the cat sat", 3, " dog")
    assert not continues("the cat sat", 3, NoText(is_next=False))
    assert continues("the cat sat", 3, NoText(is_next=True))
    texts = ["the cat"]
    assert own_accuracy(texts, [{3: " cat", 7: " sat"}]) == 1  # nothing is known after the end
    assert own_accuracy(texts, [{1: "he", 3: " dog"}]) == 0.5


def test_agreement_of_hand_made_continuations() -> None:
    one = [{1: "a", 2: "b", 4: "c"}]
    other = [{1: "a", 2: "x", 3: "y", 4: "cd"}]
    found = agreement_of([one, other])
    assert found.positions.tolist() == [[3, 3], [3, 4]]
    assert found.share[0, 1] == pytest.approx(2 / 3)
    assert found.share.diagonal().tolist() == [1, 1]
    # a and cd of the other each agree with one of three: 2 of 9 pairs
    assert found.chance[0, 1] == pytest.approx(2 / 9)
    assert found.lift[0, 1] == pytest.approx((2 / 3 - 2 / 9) / (1 - 2 / 9))
    assert found.ci_low.isnan().all()  # under eight positions there is no interval


def test_models_without_a_shared_position_have_no_agreement() -> None:
    found = agreement_of([[{1: "a"}], [{2: "a"}]])
    assert found.positions[0, 1] == 0
    assert found.share[0, 1].isnan()


def test_from_three_texts_on_the_interval_is_over_texts() -> None:
    same, apart = dict.fromkeys(range(1, 11), "a"), dict.fromkeys(range(1, 11), "b")
    all_same = agreement_of([[same] * 8, [same] * 8])
    # Eight texts that are all alike do not prove that the next one is.
    assert 0.8 < float(all_same.ci_low[0, 1]) < 0.95
    assert float(all_same.ci_high[0, 1]) == 1
    fewer = agreement_of([[same] * 3, [same] * 3])
    assert float(fewer.ci_low[0, 1]) < float(all_same.ci_low[0, 1])
    mixed = agreement_of([[same] * 8, [same, apart] * 4])
    assert float(mixed.share[0, 1]) == 0.5
    assert float(mixed.ci_low[0, 1]) < 0.3 < 0.7 < float(mixed.ci_high[0, 1])
