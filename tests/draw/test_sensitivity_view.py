"""A sensitivity run's pictures, from rows whose picture is known."""

from __future__ import annotations

import numpy as np

from mi_toolkit.draw import figures
from tests.draw.test_house_style import made_test

ROWS = made_test().to_pandas().to_dict("records")


def test_a_run_s_dose_figure_is_the_dose_curve_of_its_test() -> None:
    of_run = figures.dose_figure(ROWS[::-1], "magnitude", "zero")
    of_test = figures.dose_curve(made_test())
    for mine, its in zip(of_run.lines, of_test.lines, strict=True):
        np.testing.assert_allclose(sorted(mine.get_ydata()), sorted(its.get_ydata()))
    assert [text.get_text() for text in of_run.get_xticklabels()] == ["1", "10"]
    (band,) = of_run.collections
    heights = band.get_paths()[0].vertices[:, 1]
    widest = [2 - 2 * 2**0.5, 2 + 2 * 2**0.5]  # of the draws 1 and 3
    np.testing.assert_allclose([heights.min(), heights.max()], widest)


def test_a_dose_figure_shows_its_own_metric_and_kind_alone() -> None:
    others = [{**row, "loss_rise": 99.0, name: "other"} for row in ROWS for name in ("metric",)]
    ax = figures.dose_figure([*ROWS, *others], "magnitude", "zero")
    assert max(float(np.max(line.get_ydata())) for line in ax.lines) == 10


def test_a_single_dose_has_a_bar_and_no_random_draws_have_no_band() -> None:
    single = figures.dose_figure([row for row in ROWS if row["k"] == 10], "magnitude", "zero")
    assert len(single.containers) == 1
    without = [row for row in ROWS if row["group"] != "random"]
    ax = figures.dose_figure(without, "magnitude", "zero")
    assert not ax.collections
    assert not ax.containers


def test_the_maps_of_a_run_hold_its_figures_and_draw_in_given_axes() -> None:
    rows = [
        {"layer": layer, "component": c, "mean": 10.0 ** (layer + 1)}
        for layer in (0, 1)
        for c in "ab"
    ]
    ax = figures.layer_figure(rows, "magnitude")
    np.testing.assert_allclose(ax.images[0].get_array(), [[10, 10], [100, 100]])
    heads = [{"layer": 0, "head": head, "sum": 1.0 + head} for head in (0, 1)]
    assert figures.head_figure(heads, "magnitude", ax) is ax
