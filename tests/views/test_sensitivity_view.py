"""The dose curve on a page, from rows whose picture is known."""

from __future__ import annotations

import re

from mi_toolkit.views.sensitivity import dose_curve

SAME = {"random_sd": 0.25, "magnitude_matched": 0.5, "bottom": 0.0}
ROWS = [
    {"k": 10, "top": 2.0, "random_mean": 0.5, **SAME},
    {"k": 1, "top": 1.0, "random_mean": 0.0, **SAME},
]


def test_a_dose_curve_goes_by_dose_and_stands_above_its_band() -> None:
    drawn = dose_curve(ROWS, "grad_x_weight", "zero & one")
    assert "grad_x_weight, zero &amp; one" in drawn
    top = re.search(r'<polyline points="([^"]*)" fill="none" stroke="#c0392b"', drawn)
    assert top is not None
    (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in top[1].split())
    assert x1 < x2
    assert y1 > y2  # the first row is dose 10, and up is more
    band = re.search(r'<polygon points="([^"]*)"', drawn)
    assert band is not None
    heights = [float(point.split(",")[1]) for point in band[1].split()]
    assert len(heights) == 4
    assert min(heights) > y2
    assert drawn.index(">1</text>") < drawn.index(">10</text>")


def test_a_dose_curve_without_random_controls_has_no_band() -> None:
    nan = float("nan")
    rows = [{**row, "random_mean": nan, "random_sd": nan, "bottom": nan} for row in ROWS]
    drawn = dose_curve(rows, "fisher", "zero")
    assert "<polygon" not in drawn
    assert "nan" not in drawn
