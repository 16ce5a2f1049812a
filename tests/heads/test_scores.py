"""Scores on patterns whose answer is known: perfect, even, sink, mixed, windowed heads."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mi_toolkit.core.sight import Square
from mi_toolkit.core.tokens import from_sequences
from mi_toolkit.heads import scores
from mi_toolkit.heads.behaviours import BEHAVIOURS
from mi_toolkit.heads.kinds import MaskBehaviour
from mi_toolkit.heads.plan import compared_pairs
from mi_toolkit.heads.scores import (
    MIN_NON_SINK_MASS,
    PatternRows,
    RowFigures,
    diffuse_terms,
    eligible,
    lift,
    locality_terms,
    mean_key,
    positional_terms,
    row_entropy,
    top_share,
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
    for score in (0.5, 1.0):
        assert math.isnan(lift(torch.tensor(score), torch.tensor(1.0)))


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


def variation_by_hand(here: Tensor, there: Tensor) -> Tensor:
    """Half the sum of differences off the sink, of rows scaled to 1 off the sink."""
    n, wide = here.shape[-2], max(here.shape[-1], there.shape[-1])
    found = torch.zeros(here.shape[:-1])
    for q in range(min(n, there.shape[-2])):
        rows = []
        for pattern in (here, there):
            row = torch.zeros(*pattern.shape[:-2], wide)
            row[..., : pattern.shape[-1]] = pattern[..., q, :]
            row[..., 0] = 0
            rows.append(row / row.sum(dim=-1, keepdim=True).clamp_min(MIN_NON_SINK_MASS))
        found[..., q] = (rows[0] - rows[1]).abs().sum(dim=-1) / 2
    return found


@pytest.mark.parametrize(("one", "other"), [(11, 11), (11, 6), (6, 11), (3, 9), (1, 4)])
def test_variation_is_its_definition_in_blocks_of_queries(
    one: int, other: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores, "BLOCK", 4)
    here, there = (
        torch.stack([random_pattern(n, seed=2 * n + head) for head in range(2)])[None].repeat(
            3, 1, 1, 1
        )
        for n in (one, other)
    )
    found = PatternRows(patterns=here, window=None).variation(
        PatternRows(patterns=there, window=None)
    )
    torch.testing.assert_close(found, variation_by_hand(here, there))
    assert found.shape == (3, 2, one)
    alone = PatternRows(patterns=here[0], window=None)
    assert torch.equal(alone.variation(PatternRows(patterns=there[0], window=None)), found[0])


def test_entropy_and_mean_key_are_their_definitions_in_blocks_of_queries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scores, "BLOCK", 4)
    pattern = torch.stack([random_pattern(11, seed=seed) for seed in range(3)])
    found = PatternRows(patterns=pattern, window=None)
    wanted = -(pattern * pattern.clamp_min(1e-30).log()).sum(dim=-1)
    torch.testing.assert_close(found.entropy, wanted)
    torch.testing.assert_close(found.mean_key, pattern @ torch.arange(11.0))
    torch.testing.assert_close(found.non_sink_mass, 1 - pattern[..., 0])
    assert torch.equal(found.own, torch.stack([each.diagonal() for each in pattern]))
    assert row_entropy(torch.tensor([[0.0, 1.0], [0.5, 0.5]])).tolist() == pytest.approx(
        [0, math.log(2)]
    )


def test_a_key_ahead_counts_at_its_mirror_image() -> None:
    square = Square(torch.ones(5, 5, dtype=torch.bool))
    pattern = torch.eye(5).roll(1, dims=1)  # each query looks at the next key, the last at 0
    found = PatternRows(patterns=pattern, window=square)
    assert found.mean_key.tolist() == [-1, 0, 1, 2, 0]
    block = mean_key(pattern[2:4], torch.arange(5.0), square, first_query=2)
    assert block.tolist() == [1, 2]
    assert PatternRows(patterns=pattern, window=None).mean_key.tolist() == [1, 2, 3, 4, 0]
    # All of each row is read where a layer looks ahead: none of it is cut with its block.
    assert [tuple(part.shape) for _, part in found.causal_blocks()] == [(5, 5)]


def test_all_of_a_row_is_read_where_a_layer_looks_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "BLOCK", 2)
    square = Square(torch.ones(5, 5, dtype=torch.bool))
    even = PatternRows(patterns=torch.full((2, 5, 5), 0.2), window=square)
    assert even.entropy.flatten().tolist() == pytest.approx([math.log(5)] * 10)


def test_rows_of_several_sequences_are_scored_as_each_is_alone() -> None:
    patterns = torch.stack(
        [torch.stack([random_pattern(9, seed=10 * s + h) for h in range(2)]) for s in range(3)]
    )
    every = PatternRows(patterns=patterns, window=None)
    turned = PatternRows(patterns=patterns.flip(0), window=None)
    for terms in (locality_terms, diffuse_terms, positional_terms):
        together = terms(every, turned)
        for s in range(3):
            one = PatternRows(patterns=patterns[s], window=None)
            alone = terms(one, PatternRows(patterns=patterns[2 - s], window=None))
            for found, wanted in zip(together, alone, strict=True):
                torch.testing.assert_close(found[s], wanted)


def test_blocks_are_cut_at_their_last_query(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "BLOCK", 4)
    parts = [*PatternRows(patterns=random_pattern(9, seed=0), window=None).causal_blocks()]
    assert [(queries.start, queries.stop, tuple(part.shape)) for queries, part in parts] == [
        (0, 4, (4, 4)),
        (4, 8, (4, 8)),
        (8, 9, (1, 9)),
    ]


def test_locality_is_its_definition_where_a_layer_looks_ahead_and_where_not() -> None:
    n = 7
    for sight in (None, Square(torch.ones(n, n, dtype=torch.bool))):
        ahead = sight is not None
        pattern = torch.rand(2, n, n, generator=torch.Generator().manual_seed(4))
        pattern = (pattern if ahead else pattern.tril()) + 1e-3 * torch.eye(n)
        pattern = pattern / pattern.sum(dim=-1, keepdim=True)
        found = locality_terms(PatternRows(patterns=pattern, window=sight))
        for q in range(n):
            keys = [k for k in range(1, n) if ahead or k <= q]
            distance = {k: max(0, abs(q - k) - 1) for k in keys}
            even = sum(distance.values()) / len(keys) if keys else 0.0
            counts = q >= 3
            for head in range(2):
                mass = float(pattern[head, q, 1:].sum()) or 1.0
                own = sum(float(pattern[head, q, k]) * distance[k] for k in keys) / mass
                assert float(found.denominator[head, q]) == pytest.approx(counts * even, abs=1e-5)
                wanted = counts * (even - own)
                assert float(found.numerator[head, q]) == pytest.approx(wanted, abs=1e-5)


def test_rows_count_that_look_off_the_sink_in_both_texts() -> None:
    n = 6
    looks, rests = even_pattern(n), sink_pattern(n).clone()
    mixed = looks.clone()
    mixed[4] = torch.tensor([0.96, 0.04, 0, 0, 0, 0])
    for one, other in ((looks, mixed), (mixed, looks)):
        both = positional_terms(rows(one), rows(other))
        assert both.denominator[0].nonzero().flatten().tolist() == [2, 3, 5]
        assert both.denominator.dtype == both.numerator.dtype == torch.float32
    assert positional_terms(rows(looks), rows(rests)).denominator.sum() == 0
    alone = positional_terms(rows(looks))
    assert alone.numerator.tolist() == alone.denominator.tolist() == [[0.0] * n]
    at_bar = torch.tensor([[1 - MIN_NON_SINK_MASS, MIN_NON_SINK_MASS]], dtype=torch.float64)
    exact = PatternRows(patterns=at_bar[None], window=None)
    assert exact.eligible.tolist() == eligible(exact).tolist() == [[True]]


def test_diffuse_is_entropy_over_the_log_of_what_is_visible_from_its_first_query_on() -> None:
    pattern = random_pattern(12, seed=1)[None]
    found = diffuse_terms(PatternRows(patterns=pattern, window=None))
    assert found.denominator[0].tolist() == [0.0] * 8 + [1.0] * 4
    entropy = PatternRows(patterns=pattern, window=None).entropy[0]
    wanted = entropy[8:] / torch.arange(9.0, 13).log()
    torch.testing.assert_close(found.numerator[0, 8:], wanted)
    assert found.numerator[0, :8].tolist() == [0.0] * 8
    narrow = PatternRows(patterns=torch.eye(12)[None], window=1)
    assert diffuse_terms(narrow, first_query=0).denominator.sum() == 0
    early = diffuse_terms(PatternRows(patterns=pattern, window=2), first_query=1)
    assert early.denominator[0].tolist() == [0.0] + [1.0] * 11
    torch.testing.assert_close(early.numerator[0, 1:], entropy[1:] / math.log(2))


def test_the_top_key_shares_its_one_with_those_that_tie() -> None:
    pattern = torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.2, 0.2, 0.6, 0], [0.25] * 4])
    assert top_share(pattern).tolist() == [
        [1, 0, 0, 0],
        [0.5, 0.5, 0, 0],
        [0, 0, 1, 0],
        [0.25] * 4,
    ]
    heads = torch.stack([pattern, pattern.flip(1)])
    assert top_share(heads)[1].equal(top_share(pattern).flip(1))
    assert lift(torch.tensor([0.55, 0.1]), torch.tensor([0.1, 0.1])).tolist() == pytest.approx(
        [0.5, 0.0]
    )


def test_figures_read_block_by_block_know_their_variation() -> None:
    values = torch.rand(1, 2, 5)
    figures_of_rows = RowFigures(
        non_sink_mass=values,
        mean_key=values,
        own=values,
        entropy=values,
        to_other=2 * values,
        window=None,
    )
    assert torch.equal(figures_of_rows.variation(figures_of_rows), 2 * values)
