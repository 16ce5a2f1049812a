from __future__ import annotations

import math
import re
from functools import cache

import pytest

from mi_toolkit import trace_pipeline
from mi_toolkit.core.errors import PromptError, UnknownNameError
from mi_toolkit.draw.pipeline import position_buttons, position_grid, position_html, view_position
from mi_toolkit.text.pipeline import Pipeline
from tests.models_here import loaded


@cache
def found(*, lens: bool = True) -> Pipeline:
    return trace_pipeline(loaded("toy-gpt2"), "Mary <b>and</b> John", lens=lens, top_k=4)


def test_every_token_is_a_button_and_the_chosen_one_is_pressed() -> None:
    drawn = position_buttons(found(), 2)
    picks = re.findall(r'data-pick="(\d+)" aria-pressed="(\w+)"', drawn)
    assert [pick for pick, _ in picks] == list(map(str, range(len(found().tokens.texts))))
    assert [pick for pick, pressed in picks if pressed == "true"] == ["2"]
    assert "<b>" not in drawn


def test_the_bars_are_the_probabilities_behind_the_position() -> None:
    drawn = position_html(found(), 2, 3)
    widths = [float(each) for each in re.findall(r"width:([\d.]+)%", drawn)][:3]
    expected = [100 * math.exp(each) for each in found().output.top_log_probs[2, :3].tolist()]
    assert widths == pytest.approx(expected, abs=0.06)
    rank = int(found().output.next_ranks[2])
    assert f"comes next in the prompt: rank {rank}," in drawn
    last = len(found().tokens.texts) - 1
    assert "comes next" not in position_html(found(), last, 3)
    assert "<b>and" not in drawn


def test_the_lens_of_a_position_follows_the_final_prediction_through_the_layers() -> None:
    traced = found()
    lens = traced.output.lens
    grid = position_grid(traced, lens, 2, 3)
    assert grid.rows == ("layer 3", "layer 2", "layer 1", "layer 0", "embedding")
    assert [row[0].text for row in grid.cells] == [
        f"rank {rank}" for rank in reversed(lens.final_ranks[:, 2].tolist())
    ]
    on_top = [cell.probability for cell in grid.cells[0][1:]]
    expected = [math.exp(each) for each in traced.output.top_log_probs[2, :3].tolist()]
    assert on_top == pytest.approx(expected, rel=1e-3)
    assert grid.cells[0][1].is_framed


def test_the_view_keeps_files_with_and_without_a_lens(tmp_path) -> None:
    for lens in (True, False):
        view = view_position(found(lens=lens), -1, top_k=2)
        view.save_html(tmp_path / "page.html")
        assert ("Logit lens" in (tmp_path / "page.html").read_text("utf-8")) == lens
        view.save_png(tmp_path / "picture.png")
        assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_there_is_no_view_of_what_was_not_traced() -> None:
    with pytest.raises(PromptError, match=r"position=99: the prompt's tokens are 0 to"):
        view_position(found(), 99)
    with pytest.raises(PromptError, match="top_k=5: the pipeline was traced with top_k=4"):
        view_position(found(), top_k=5)
    with pytest.raises(UnknownNameError, match=r"no attention of L9H0.*0, 1, 2, 3, of 4 heads"):
        found().attention.pattern("L9H0")
