from __future__ import annotations

import math
import re

import pytest
import torch

import mi_toolkit as mi
from mi_toolkit.compare.stimuli import cohens_kappa, rank_correlation
from mi_toolkit.core.errors import ComparisonError
from tests.draw.made import made_report
from tests.models_here import loaded


def test_ranks_alone_decide_the_correlation() -> None:
    figures = torch.rand(20)
    assert rank_correlation(figures, figures.exp()) == pytest.approx(1)
    assert rank_correlation(figures, -figures) == pytest.approx(-1)
    assert math.isnan(rank_correlation(torch.ones(5), torch.rand(5)))


def test_the_rank_correlation_is_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    one, other = torch.rand(50), torch.rand(50).round(decimals=1)
    expected = pandas.Series(one.numpy()).rank().corr(pandas.Series(other.numpy()).rank())
    assert rank_correlation(one, other) == pytest.approx(expected)


def test_kappa_is_agreement_beyond_chance() -> None:
    yes, no = torch.ones(4, dtype=torch.bool), torch.zeros(4, dtype=torch.bool)
    half = torch.tensor([True, True, False, False])
    assert cohens_kappa(half, half) == 1
    assert cohens_kappa(half, ~half) == -1
    assert cohens_kappa(half, yes) == 0
    assert math.isnan(cohens_kappa(no, no))


def test_labels_are_counted_on_either_and_on_both() -> None:
    one = made_report({"induction": torch.tensor([[0.9, 0.8], [0.0, 0.1]])})
    other = made_report({"induction": torch.tensor([[0.9, 0.0], [0.7, 0.1]])})
    (pair,) = mi.compare.compare_stimuli({"verse": one, "prose": other}).pairs
    assert (pair.labelled, pair.other_labelled, pair.both) == (2, 2, 1)
    assert pair.overlap == pytest.approx(1 / 3)
    assert pair.n_heads == 4
    assert pair.rank_correlation == pytest.approx(0.2)


def test_heads_without_a_figure_on_either_are_left_out() -> None:
    one = made_report({"diffuse": torch.tensor([[0.9, torch.nan, 0.1, 0.3]])})
    other = made_report({"diffuse": torch.tensor([[0.8, 0.1, 0.2, 0.4]])})
    (pair,) = mi.compare.compare_stimuli({"verse": one, "prose": other}).pairs
    assert (pair.n_heads, pair.rank_correlation) == (3, pytest.approx(1))


def test_a_standard_report_has_its_stimuli_apart() -> None:
    report = mi.classify_heads(loaded("toy-opt"))
    comparison = mi.compare.compare_stimuli(report)
    named = {pair.behaviour: pair for pair in comparison.pairs}
    assert "positional" not in named  # not measured on random tokens
    pair = named["induction"]
    expected = rank_correlation(
        report.on("repeated_random")["induction"].flatten(),
        report.on("natural")["induction"].flatten(),
    )
    assert pair.rank_correlation == expected
    assert len(comparison.to_pandas()) == len(comparison.pairs)
    words = repr(comparison)
    assert re.search(r"induction +(repeated_random +natural|natural +repeated_random) ", words)


def test_one_stimulus_or_two_models_are_no_stimuli_to_compare() -> None:
    one, other = (made_report({"induction": torch.rand(2, n)}) for n in (2, 3))
    with pytest.raises(ComparisonError, match="two or more at a time"):
        mi.compare.compare_stimuli(one)
    with pytest.raises(ComparisonError, match="2 × 2, 2 × 3"):
        mi.compare.compare_stimuli({"a": one, "b": other})


def test_labels_of_a_text_too_short_for_one_are_not_compared() -> None:
    model = loaded("toy-gpt2")
    short = mi.classify_heads(model, "hi", behaviours=["first_token"])
    long = mi.classify_heads(model, "one two " * 20, behaviours=["first_token"])
    (pair,) = mi.compare.compare_stimuli({"short": short, "long": long}).pairs
    assert (pair.labelled, pair.both) == (None, None)
    assert pair.other_labelled is not None
    assert math.isnan(pair.kappa)
    assert math.isnan(pair.overlap)
    (same,) = mi.compare.compare_stimuli({"long": long, "again": long}).pairs
    assert same.labelled == same.both == same.other_labelled
