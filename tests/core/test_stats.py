"""Intervals and tests by hand, where their formulas are short enough to write down again.

That they cover is held in `tests/heads/coverage`.
"""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from mi_toolkit.core.stats import (
    MIN_QUERIES,
    MIN_TEXTS,
    RUN_IF_CONSTANT,
    Estimate,
    discoveries,
    effective_size,
    false_discovery_rates,
    over_queries,
    over_texts,
    students_t,
)


def logit(share: float) -> float:
    share = min(max(share, 0.01), 0.99)
    return math.log(share / (1 - share))


def by_hand(
    above: list[float],
    below: list[float],
    worth: float,
    bounds: tuple[float, float],
    pairs: int = 1,
) -> tuple[float, float, float]:
    """Value, centre and standard error: the formula of the module, one number at a time."""
    low, high = bounds
    n = sum(each != 0 for each in below)
    numerator, denominator = sum(above) / pairs, sum(below) / pairs

    def place(over: float, under: float) -> float:
        return logit((over / under - low) / (high - low))

    centre = place(numerator, denominator)
    without = [
        place(numerator - a, denominator - b) for a, b in zip(above, below, strict=True) if b
    ]
    mean = sum(without) / n
    variance = (n - 1) / n * sum((each - mean) ** 2 for each in without) * n / worth
    unit = sum(below) / worth
    unseen = min((7 / 8) ** worth, 0.2)
    for end in bounds:
        moved = place(numerator + end * unit, denominator + unit) - centre
        variance += pairs * unseen * moved**2
    return numerator / denominator, centre, variance**0.5


ABOVE, BELOW = [2.0, 3.0, 0.0, 1.5, 4.0], [4.0, 5.0, 0.0, 2.5, 8.0]


def column(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-2.0, 1.0), (0.2, 0.9)])
@pytest.mark.parametrize("pairs", [1, 2])
def test_over_texts_is_its_formula(bounds: tuple[float, float], pairs: int) -> None:
    found = over_texts(column(ABOVE), column(BELOW), bounds=bounds, units_to_term=pairs)
    value, centre, error = by_hand(ABOVE, BELOW, 4, bounds, pairs)
    assert float(found.value) == pytest.approx(value)
    assert float(found.centre) == pytest.approx(centre)
    assert float(found.standard_error) == pytest.approx(error)
    assert float(found.freedom) == 3
    assert found.bounds == bounds


def test_many_texts_that_differ_allow_for_less_that_is_unseen() -> None:
    generator = torch.Generator().manual_seed(0)
    shares = torch.rand(30, generator=generator).mul(0.2).add(0.6).tolist()
    found = over_texts(column(shares), column([1.0] * 30), bounds=(0.0, 1.0))
    _, _, error = by_hand(shares, [1.0] * 30, 30, (0.0, 1.0))
    assert float(found.standard_error) == pytest.approx(error)


def test_one_denominator_serves_all_heads_and_dtypes_come_back() -> None:
    above = torch.tensor([[1.0, 0.5], [2.0, 1.0], [3.0, 0.5]])
    found = over_texts(above, torch.tensor([[4.0], [4.0], [4.0]]), bounds=(0.0, 1.0))
    for head in range(2):
        value, centre, error = by_hand(above[:, head].tolist(), [4.0] * 3, 3, (0.0, 1.0))
        assert float(found.value[head]) == pytest.approx(value)
        assert float(found.centre[head]) == pytest.approx(centre)
        assert float(found.standard_error[head]) == pytest.approx(error)
    assert found.value.dtype == torch.float32
    assert found.ends()[0].dtype == torch.float32
    assert found.p_at_most(0.5).dtype == torch.float32


def test_from_three_texts_on_there_is_an_interval() -> None:
    for n in (MIN_TEXTS - 1, MIN_TEXTS):
        found = over_texts(column([0.4] * n), column([1.0] * n), bounds=(0.0, 1.0))
        has_none = n < MIN_TEXTS
        assert math.isnan(found.standard_error) == math.isnan(found.centre) == has_none
        assert math.isnan(found.freedom) == has_none
        assert float(found.value) == pytest.approx(0.4)


def test_ends_are_students_t_on_the_logit_and_never_leave_the_figure_out() -> None:
    found = over_texts(column(ABOVE), column(BELOW), bounds=(0.0, 1.0))
    _, centre, error = by_hand(ABOVE, BELOW, 4, (0.0, 1.0))
    half = stats.t.ppf(0.975, 3) * error
    low, high = (float(end) for end in found.ends())
    assert low == pytest.approx(1 / (1 + math.exp(-(centre - half))))
    assert high == pytest.approx(1 / (1 + math.exp(-(centre + half))))


def estimate(value: float, bounds: tuple[float, float] | None, error: float = 0.5) -> Estimate:
    place = value if bounds is None else (value - bounds[0]) / (bounds[1] - bounds[0])
    return Estimate(
        value=torch.tensor([value], dtype=torch.float64),
        centre=torch.tensor([place if bounds is None else logit(place)], dtype=torch.float64),
        standard_error=torch.tensor([error], dtype=torch.float64),
        freedom=torch.tensor([9.0], dtype=torch.float64),
        bounds=bounds,
    )


def test_a_figure_an_edge_off_an_end_of_its_range_reaches_it() -> None:
    for value, end in ((0.01, 0), (0.99, 1)):
        # Without any spread as well, where the interval is a point.
        for error in (0.5, 0.0):
            ends = [float(end) for end in estimate(value, (0.0, 1.0), error).ends()]
            assert ends[end] == end
            assert ends[1 - end] == pytest.approx(value) or error


@pytest.mark.parametrize("all_of", [0.0, 1.0])
def test_texts_that_are_all_at_an_end_have_the_interval_of_the_place_next_to_it(
    all_of: float,
) -> None:
    found = over_texts(column([all_of] * 6), column([1.0] * 6), bounds=(0.0, 1.0))
    _, centre, error = by_hand([all_of] * 6, [1.0] * 6, 6, (0.0, 1.0))
    assert float(found.centre) == pytest.approx(centre)
    assert float(found.standard_error) == pytest.approx(error)
    inner = float(found.ends()[int(1 - all_of)])
    assert 0.05 < abs(inner - all_of) < 0.95


def test_a_mean_without_a_range_has_the_interval_of_student() -> None:
    values = [3.0, -1.0, 4.5, 2.0, 7.0]
    found = over_texts(column(values), column([1.0] * 5), bounds=None)
    low, high = stats.t.interval(0.95, 4, loc=3.1, scale=stats.sem(values))
    assert [float(end) for end in found.ends()] == pytest.approx([low, high])


def test_each_head_has_its_own_denominators() -> None:
    above = torch.tensor([[1.0, 3.0], [2.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    below = torch.tensor([[2.0, 9.0], [5.0, 8.0], [4.0, 7.0]], dtype=torch.float64)
    found = over_texts(above, below, bounds=(0.0, 1.0))
    for head in range(2):
        wanted = by_hand(above[:, head].tolist(), below[:, head].tolist(), 3, (0.0, 1.0))
        parts = (found.value[head], found.centre[head], found.standard_error[head])
        assert [float(part) for part in parts] == pytest.approx(wanted)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-2.0, 1.0)])
def test_a_figure_at_an_end_of_its_range_has_an_interval_that_reaches_it(
    bounds: tuple[float, float],
) -> None:
    low, high = bounds
    size = high - low
    for share, at_low, at_high in (
        (0.0, True, False),
        (0.0099, True, False),
        (0.011, False, False),
        (0.5, False, False),
        (0.989, False, False),
        (0.991, False, True),
        (1.0, False, True),
    ):
        ends = [float(end) for end in estimate(low + size * share, bounds).ends()]
        assert (ends[0] == low) is at_low, share
        assert (ends[1] == high) is at_high, share
        assert low <= ends[0] <= low + size * share <= ends[1] <= high


def test_without_a_range_ends_are_symmetric_and_may_be_anything() -> None:
    low, high = (float(end) for end in estimate(-3.0, None).ends())
    half = 0.5 * stats.t.ppf(0.975, 9)
    assert (low, high) == (pytest.approx(-3 - half), pytest.approx(-3 + half))


@pytest.mark.parametrize(("value", "bounds"), [(0.6, (0.0, 1.0)), (-1.1, (-2.0, 1.0)), (4.0, None)])
def test_p_is_the_tail_of_t_above_the_bar(value: float, bounds: tuple[float, float] | None) -> None:
    bar = 0.4 if bounds is not None else 3.2
    found = estimate(value, bounds)
    place = bar if bounds is None else logit((bar - bounds[0]) / (bounds[1] - bounds[0]))
    t = (float(found.centre) - place) / 0.5
    assert float(found.p_at_most(bar)) == pytest.approx(stats.t.sf(t, 9))


def test_without_spread_a_figure_is_beyond_the_bar_or_not() -> None:
    certain = estimate(0.6, (0.0, 1.0), error=0.0)
    assert float(certain.p_at_most(0.4)) == 0
    assert float(certain.p_at_most(0.7)) == 1


def test_the_quantile_is_scipys_in_the_dtype_that_came() -> None:
    freedom = torch.tensor([1.0, 2.0, 30.0])
    assert students_t(freedom).dtype == torch.float32
    wanted = stats.t.ppf(0.975, freedom.numpy())
    assert students_t(freedom).tolist() == pytest.approx(wanted.tolist())


def test_over_queries_counts_what_a_series_is_worth() -> None:
    generator = torch.Generator().manual_seed(1)
    shares = torch.rand(24, generator=generator).tolist()
    found = over_queries(column(shares), column([1.0] * 24), lengths=[10, 14], bounds=(0.0, 1.0))
    mean = sum(shares) / 24
    series = column([each - mean for each in shares])
    worth = float(effective_size(series, torch.tensor([24.0]).double(), [10, 14]))
    value, centre, error = by_hand(shares, [1.0] * 24, worth, (0.0, 1.0))
    assert float(found.value) == pytest.approx(value)
    assert float(found.centre) == pytest.approx(centre)
    assert float(found.standard_error) == pytest.approx(error)
    assert float(found.freedom) == pytest.approx(worth - 1)
    single = over_queries(
        column(shares).float(), column([1.0] * 24).float(), lengths=[24], bounds=(0.0, 1.0)
    )
    assert single.value.dtype == single.ends()[0].dtype == torch.float32


def test_queries_of_several_heads_have_their_own_ratio_and_weights() -> None:
    generator = torch.Generator().manual_seed(2)
    below = torch.rand(20, 2, generator=generator, dtype=torch.float64) + torch.tensor([0.2, 3.0])
    above = below * torch.rand(20, 2, generator=generator, dtype=torch.float64)
    found = over_queries(above, below, lengths=[20], bounds=(0.0, 1.0))
    for head in range(2):
        own, weights = above[:, head], below[:, head]
        deviations = (own - own.sum() / weights.sum() * weights)[:, None]
        worth = float(effective_size(deviations, torch.tensor([20.0]).double(), [20]))
        value, centre, error = by_hand(own.tolist(), weights.tolist(), worth, (0.0, 1.0))
        assert float(found.value[head]) == pytest.approx(value)
        assert float(found.centre[head]) == pytest.approx(centre)
        assert float(found.standard_error[head]) == pytest.approx(error)


def test_under_eight_queries_a_series_has_no_interval() -> None:
    for n in (MIN_QUERIES - 1, MIN_QUERIES):
        found = over_queries(column([0.5] * n), column([1.0] * n), lengths=[n], bounds=(0.0, 1.0))
        assert math.isnan(found.standard_error) == (n < MIN_QUERIES)


def worth_by_hand(texts: list[list[float]]) -> float:
    n, n_lags = sum(map(len, texts)), max(map(len, texts))
    lagged = [
        sum(text[i] * text[i + lag] for text in texts for i in range(len(text) - lag))
        for lag in range(n_lags)
    ]
    total = 0.0
    for lag in range(1, n_lags // 2):
        rho = lagged[lag] / lagged[0]
        rho += (1 + 2 * max(rho, 0)) / n
        if rho <= 0:
            break
        total += rho
    return max(2.0, n / (1 + 2 * total))


@pytest.mark.parametrize("lengths", [[16], [9, 7], [5, 12, 3], [40]])
@pytest.mark.parametrize("run", [1, 3])
def test_a_series_is_worth_its_length_by_its_autocorrelation(lengths: list[int], run: int) -> None:
    generator = torch.Generator().manual_seed(sum(lengths) + run)
    texts = [
        torch.randn(-(-n // run), generator=generator, dtype=torch.float64)
        .repeat_interleave(run)[:n]
        .tolist()
        for n in lengths
    ]
    series = column([value for text in texts for value in text])
    n = torch.tensor([float(sum(lengths))], dtype=torch.float64)
    assert float(effective_size(series, n, lengths)) == pytest.approx(worth_by_hand(texts))


def test_a_series_that_never_changes_is_worth_a_fifth_and_two_at_least() -> None:
    n = torch.tensor([20.0, 5.0], dtype=torch.float64)
    found = effective_size(torch.zeros(20, 2, dtype=torch.float64), n, [20])
    assert found.tolist() == [20 / RUN_IF_CONSTANT, 2]
    rounded = effective_size(torch.full((20, 1), 1e-9).double(), n[:1], [20])
    assert float(rounded) == 20 / RUN_IF_CONSTANT
    # Rounding to float32 leaves this of a longer one, whose neighbours say nothing of each other.
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(50)[:, None]
    worth = [
        float(effective_size(size * signs, torch.tensor([100.0]).double(), [100]))
        for size in (3e-7, 3e-6)
    ]
    assert worth == [100 / RUN_IF_CONSTANT, 100]


def test_false_discovery_rates_by_hand() -> None:
    p = torch.tensor([0.01, 0.04, 0.03, 0.9, 1.0, 0.0], dtype=torch.float64)
    # In order: 0, .01, .03, .04, .9, 1 times 6 / rank, each no more than those after it.
    wanted = [0.03, 0.06, 0.06, 1.0, 1.0, 0.0]
    assert false_discovery_rates(p).tolist() == pytest.approx(wanted)
    many = torch.rand(101, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    to_the_bit = stats.false_discovery_control(many.numpy()).tolist()
    assert false_discovery_rates(many).tolist() == to_the_bit


def test_discoveries_are_at_the_rate_or_under() -> None:
    p = torch.tensor([0.025, 0.05, math.nan], dtype=torch.float64)
    assert discoveries(p, 0.05).tolist() == [True, True, False]
    assert discoveries(p, 0.049).tolist() == [False, False, False]
    assert discoveries(torch.full((2, 2), math.nan), 0.05).tolist() == [[False, False]] * 2


def test_heads_side_by_side_are_worth_what_each_is_alone() -> None:
    series = torch.randn(30, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    n = torch.full((3,), 30.0, dtype=torch.float64)
    together = effective_size(series.cumsum(dim=0), n, [30])
    alone = [float(effective_size(series.cumsum(dim=0)[:, [i]], n[[i]], [30])) for i in range(3)]
    assert together.tolist() == pytest.approx(alone)
