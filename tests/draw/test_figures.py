from __future__ import annotations

import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.image import imread

from mi_toolkit.draw.figures.heads import pattern_grid
from mi_toolkit.draw.figures.maps import head_map, label_map, scope_map
from mi_toolkit.draw.figures.style import Sheet, as_svg, in_house_style, sheet_of
from mi_toolkit.draw.primitives import FRAME
from mi_toolkit.draw.report import view_report
from tests.draw.made import made_report, made_view


def test_the_picture_holds_the_report_s_figures() -> None:
    values = torch.rand(3, 5)
    ax = head_map(made_report({"induction": values}), "induction")
    (mesh,) = [shown for shown in ax.collections if isinstance(shown, QuadMesh)]
    np.testing.assert_allclose(mesh.get_array().reshape(3, 5), values)
    assert mesh.get_clim() == (0, 1)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("head", "layer")
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "1", "2", "3", "4"]
    assert "induction (lift, on prompt)" in ax.get_title(loc="left")


def test_layer_zero_is_at_the_top_and_every_figure_in_its_cell() -> None:
    ax = head_map(made_report({"induction": torch.tensor([[0.1, 0.2], [0.3, 0.4]])}), "induction")
    assert ax.get_ylim() == (2, 0)
    assert {text.get_position(): text.get_text() for text in ax.texts} == {
        (0.5, 0.5): "0.10", (1.5, 0.5): "0.20", (0.5, 1.5): "0.30", (1.5, 1.5): "0.40",
    }  # fmt: skip


def test_the_labelled_head_is_framed_and_the_unmeasured_hatched() -> None:
    ax = head_map(made_report({"induction": torch.tensor([[float("nan"), 0.9]])}), "induction")
    hatched, framed = ax.patches
    assert hatched.get_hatch() == "///"
    assert hatched.get_xy() == (0, 0)
    assert framed.get_xy() == (1, 0)
    assert mpl.colors.to_hex(framed.get_edgecolor()) == FRAME


def test_what_nothing_could_show_is_said_to_be_not_applicable() -> None:
    ax = head_map(made_report({"induction": torch.full((2, 2), torch.nan)}), "induction")
    assert "not applicable" in [text.get_text() for text in ax.texts]


def test_it_draws_in_the_caller_s_axes() -> None:
    report = made_report({"induction": torch.rand(2, 2), "locality": torch.rand(2, 2)})
    panels = Figure().subplots(1, 3)
    assert head_map(report, "induction", panels[0]) is panels[0]
    assert scope_map(report, panels[1]) is panels[1]
    assert label_map(report, panels[2]) is panels[2]


def test_a_report_s_picture_shows_more_than_paper(tmp_path: Path) -> None:
    report = made_report(
        {"previous_token": torch.rand(4, 4), "locality": torch.rand(4, 4)}, model="a $\\frac$ name"
    )
    view_report(report).save_png(tmp_path / "report.png")
    picture = imread(tmp_path / "report.png")
    assert picture.std() > 0.1


@pytest.mark.parametrize("n_tokens", [1, 7, 60])
def test_patterns_of_any_length_are_drawn(n_tokens: int, tmp_path: Path) -> None:
    made_view([f" {index}" for index in range(n_tokens)], 5).save_png(tmp_path / "heads.png")
    assert imread(tmp_path / "heads.png").std() > 0.1


def test_pictures_hold_the_patterns_and_name_at_most_forty_tokens() -> None:
    view = made_view([f" {index}" for index in range(90)], 2)
    figure = pattern_grid(view.patterns, view.tokens, ["L3H0", "L3H1"])
    first, second = (ax for ax in figure.axes if ax.images)
    (picture,) = second.images
    drawn = picture.get_array()
    np.testing.assert_array_equal(drawn.mask, ~np.tri(90, dtype=bool))
    np.testing.assert_array_equal(drawn.filled(0), view.patterns[1])
    assert 20 < len([tick for tick in first.get_yticklabels() if tick.get_text()]) <= 40


@pytest.mark.parametrize("token", ["$x$", "$\\frac", "中文", "\n", "</svg>"])
def test_a_token_is_written_as_it_is_whatever_it_holds(token: str, tmp_path: Path) -> None:
    made_view([token, "b"]).save_png(tmp_path / "heads.png")


def test_a_notebook_shows_a_figure_without_pyplot() -> None:
    view = made_view(["a", "b", "c"])
    shown = pattern_grid(view.patterns, view.tokens, ["L3H0", "L3H1"])
    assert isinstance(shown, Sheet)
    assert imread(BytesIO(shown._repr_png_())).std() > 0.1


def test_a_pattern_stays_sharp_in_vector_graphics(tmp_path: Path) -> None:
    made_view(["a", "b", "c"]).save_png(tmp_path / "heads.svg")
    text = (tmp_path / "heads.svg").read_text(encoding="utf-8")
    # One pixel to a cell, which viewers enlarge without blur; all else is text and paths.
    assert 'width="3" height="3"' in text
    assert "image-rendering:pixelated" in text
    assert "<text" in text


def test_threads_that_draw_leave_matplotlib_as_it_was() -> None:
    """Each puts back what it found: not what another had set meanwhile."""
    before = dict(mpl.rcParams)

    @in_house_style
    def draw(seconds: float) -> None:
        time.sleep(seconds)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(draw, [0.02, 0.05, 0.01, 0.04] * 4))
    assert dict(mpl.rcParams) == before

    # Nor what writes a picture: several visitors' of the page, say, at once.
    class Slow(Figure):
        def __init__(self, seconds: float) -> None:
            super().__init__(figsize=(1, 1))
            self.seconds = seconds

        def savefig(self, *args: Any, **how: Any) -> None:
            time.sleep(self.seconds)
            super().savefig(*args, **how)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(as_svg, map(Slow, [0.02, 0.05, 0.01, 0.04] * 4)))
    assert dict(mpl.rcParams) == before


def test_all_letters_of_a_picture_are_of_one_font_whatever_matplotlib_is_set_to() -> None:
    report = made_report({"induction": torch.rand(2, 2)})
    with mpl.rc_context({"font.family": "serif"}):
        drawn = as_svg(sheet_of(head_map(report, "induction")))
    # Older releases of matplotlib write the size along: font: 7px 'DejaVu Sans', …
    families = set(re.findall(r"font(?:-family)?: (?:[\d.]+px )?('[^;]*);", drawn))
    assert len(families) == 1
    assert families.pop().endswith("sans-serif")


def test_nobody_s_matplotlib_is_changed() -> None:
    code = (
        "import sys, matplotlib as mpl; before = dict(mpl.rcParams);"
        "from tests.draw.made import made_view;"
        "import io, tempfile; made_view(['a', 'b']).save_png(tempfile.mkdtemp() + '/a.png');"
        "assert dict(mpl.rcParams) == before; assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
