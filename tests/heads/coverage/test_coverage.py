"""Intervals hold the truth as often as they say, and labels are as seldom false."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import false_discovery_control

from interval_coverage import (
    BAR,
    LIFTS,
    TEXTS,
    WORLDS,
    bounded,
    covered,
    labelled,
    plain,
    series_of,
    texts_of,
)
from mi_toolkit.core.stats import (
    discoveries,
    effective_size,
    false_discovery_rates,
    over_queries,
    over_texts,
)

REPEATS = 1500


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("world", WORLDS)
def test_intervals_over_texts_hold_the_truth_and_narrow_with_every_text(world: str) -> None:
    for lift in LIFTS:
        widths = []
        for n in TEXTS:
            values, truth = texts_of(world, lift, n, REPEATS, rng())
            holds, above, width = covered(bounded(values), truth)
            assert holds >= (0.90 if n < 8 else 0.93), (world, lift, n)
            assert above <= 0.04, (world, lift, n)
            widths.append(width)
        assert all(wider > narrower for wider, narrower in pairwise(widths)), (world, lift)


def test_they_hold_it_where_texts_of_unequal_length_weigh_by_their_queries() -> None:
    for lift in LIFTS:
        for n in TEXTS:
            draw, shape = rng(), (n, 4 * REPEATS)
            queries = np.exp(draw.normal(3.3, 0.8, shape)).round().clip(4, 200)
            own = draw.beta(8 * lift, 8 * (1 - lift), shape)
            sums = torch.from_numpy(own * queries), torch.from_numpy(queries)
            holds, above, _ = covered(over_texts(*sums, bounds=(0.0, 1.0)), lift)
            assert holds >= 0.92, (lift, n)
            assert above <= 0.055, (lift, n)


def test_plain_jackknife_t_does_not_which_is_why_it_is_not_taken() -> None:
    values, truth = texts_of("wide", 0.05, 5, REPEATS, rng())
    assert covered(plain(values), truth)[0] < 0.87
    values, truth = texts_of("odd", 0.9, 7, REPEATS, rng())
    assert covered(plain(values), truth)[1] > 0.08


@pytest.mark.parametrize(("run", "least"), [(1, 0.88), (3, 0.85)])
def test_intervals_over_queries_know_that_neighbours_are_alike(run: int, least: float) -> None:
    for mean in LIFTS:
        for n in (8, 16, 32, 127):
            values = series_of(mean, n, run, REPEATS, rng())
            found = over_queries(values, torch.ones(n, 1), lengths=[n], bounds=(0.0, 1.0))
            assert covered(found, mean)[0] >= least, (mean, n)


def test_a_mean_over_pairs_of_texts_is_left_out_text_by_text() -> None:
    # Each text is compared with the next two; a text's place is in all its pairs, and 15% are odd.
    for n in (16, 64):
        first = torch.arange(n).repeat_interleave(2)
        second = (first + torch.tensor([1, 2]).repeat(n)) % n
        for odd_share in (0.0, 0.15):
            draw = rng()
            odd = torch.from_numpy(draw.random((n, REPEATS)) < odd_share)
            own = torch.from_numpy(draw.normal(0.8, 0.05, (n, REPEATS)))
            pairs = torch.where(odd[first] | odd[second], 0.4, (own[first] + own[second]) / 2)
            of_text = torch.zeros(n, REPEATS, dtype=torch.float64)
            of_text.index_add_(0, first, pairs).index_add_(0, second, pairs)
            found = over_texts(of_text, torch.full((n, 1), 4.0), bounds=(0.0, 1.0), units_to_term=2)
            assert torch.allclose(found.value, pairs.mean(dim=0))
            normal = (1 - odd_share) ** 2
            assert covered(found, normal * 0.8 + (1 - normal) * 0.4)[0] >= 0.92, (n, odd_share)


def test_without_a_range_it_is_the_textbook_jackknife_and_t() -> None:
    draw = rng()
    above, below = (torch.from_numpy(draw.random((6, 2))) for _ in range(2))
    found = over_texts(above, below, bounds=None)
    ratio, without = above.sum(dim=0) / below.sum(dim=0), []
    for left_out in range(6):
        kept = [unit for unit in range(6) if unit != left_out]
        without.append((above[kept].sum(dim=0) / below[kept].sum(dim=0)).numpy())
    error = np.sqrt(5 / 6 * np.square(np.array(without) - np.mean(without, axis=0)).sum(axis=0))
    low, high = stats.t.interval(0.95, 5, ratio.numpy(), error)
    assert found.ends()[0].numpy() == pytest.approx(low)
    assert found.ends()[1].numpy() == pytest.approx(high)
    p = stats.t.sf((ratio.numpy() - 0.5) / error, 5)
    assert found.p_at_most(0.5).numpy() == pytest.approx(p)


def test_an_interval_above_the_bar_and_a_p_at_2_5_percent_are_the_same_claim() -> None:
    values, _ = texts_of("wide", 0.6, 7, 300, rng())
    found = bounded(values)
    assert torch.equal(found.ends()[0] > BAR, found.p_at_most(BAR) < 0.025)


def test_texts_that_are_all_alike_do_not_prove_the_next_one() -> None:
    ends = [bounded(torch.full((n, 1), 0.9)).ends() for n in (3, 8, 64)]
    assert [bool(low < 0.9 < high) for low, high in ends] == [True] * 3
    assert float(ends[0][0]) < 0.6
    assert float(ends[2][0]) > 0.88
    perfect, never = (bounded(torch.full((8, 1), figure)).ends() for figure in (1.0, 0.0))
    assert float(perfect[1]) == 1
    assert 0.8 < float(perfect[0]) < 0.97
    assert float(perfect[0]) == pytest.approx(1 - float(never[1]))


def test_under_three_texts_or_eight_queries_there_is_none() -> None:
    assert bounded(torch.rand(2, 4)).ends()[0].isnan().all()
    assert bounded(torch.rand(2, 4)).p_at_most(0.3).isnan().all()
    values = torch.rand(8, 2)
    counts = torch.ones(8, 2)
    counts[0, 1] = 0
    values[0, 1] = 0
    low, _ = over_queries(values, counts, lengths=[8], bounds=(0.0, 1.0)).ends()
    assert low.isnan().tolist() == [False, True]


def test_a_series_of_runs_is_worth_as_many_queries_as_it_has_runs_and_ends_with_its_text() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(400, 50, generator=generator, dtype=torch.float64)
    runs = values[:100].repeat_interleave(4, dim=0)
    n = torch.full((50,), 400.0, dtype=torch.float64)
    each, held = (
        effective_size(series - series.mean(dim=0), n, [400]).mean() for series in (values, runs)
    )
    assert float(each) == pytest.approx(370, abs=40)
    assert float(held) == pytest.approx(100, abs=20)
    # The last query of a text is no neighbour of the first of the next.
    ends = torch.tensor([1.0, -1.0, 1.0, -1.0, -1.0, 1.0, -1.0, 1.0], dtype=torch.float64)[:, None]
    apart = effective_size(ends, torch.tensor([8.0], dtype=torch.float64), [4, 4])
    assert float(apart) > float(effective_size(ends, torch.tensor([8.0]).double(), [8])) - 1e-9


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_false_discovery_rates_are_those_of_scipy_to_the_bit(p: list[float]) -> None:
    wanted = torch.from_numpy(false_discovery_control(p))
    assert torch.equal(false_discovery_rates(torch.tensor(p, dtype=torch.float64)), wanted)


def test_discoveries_are_those_of_scipy_and_what_is_not_a_number_is_no_test() -> None:
    assert len(false_discovery_rates(torch.empty(0, dtype=torch.float64))) == 0
    p = torch.tensor([[0.001, torch.nan], [0.02, 0.9]])
    assert discoveries(p, 0.05).tolist() == [[True, False], [True, False]]
    assert not discoveries(torch.full((2,), torch.nan), 0.05).any()


def test_labels_are_false_in_5_of_100_at_most_and_found_where_there_is_something() -> None:
    at_or_under = torch.tensor([*([0.02] * 150), *([0.3] * 60)], dtype=torch.float64)
    above = torch.tensor([*([0.5] * 20), *([0.7] * 20), *([0.9] * 20)], dtype=torch.float64)
    heads, repeats = torch.cat([at_or_under, above]), 120
    found = torch.stack(list(labelled(heads, 32, repeats, rng()))).float()
    false = found[:, :210].sum(dim=1) / found.sum(dim=1).clamp_min(1)
    # Monte-Carlo: the mean of `repeats` shares, three standard errors of which are allowed for.
    assert float(false.mean()) <= 0.05 + 3 * float(false.std()) / repeats**0.5
    assert float(found[:, 210:].mean()) > 0.9
