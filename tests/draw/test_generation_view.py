"""The page and the picture of a generation: every beam and every alternative is there."""

from __future__ import annotations

from functools import cache

import pytest

from mi_toolkit import generate
from mi_toolkit.draw.figures.prompt import generation_figure
from mi_toolkit.draw.generation import alternatives_grid, placed_nodes, view_generation
from mi_toolkit.text.generation import Generation
from tests.models_here import loaded


@cache
def found(num_beams: int, prompt: str = "Mary and John went to") -> Generation:
    return generate(loaded("toy-gpt2"), prompt, max_new_tokens=9, num_beams=num_beams, top_k=4)


def test_no_two_tokens_of_a_tree_stand_in_one_place_and_lines_join_what_follows() -> None:
    generation = found(4)
    placed = placed_nodes(generation)
    places = {(node.column, node.lane) for node in placed}
    assert len(places) == len(placed) == len(generation.tree)
    assert all(node.parent in places for node in placed if node.column)
    assert [node.lane for node in placed if node.sequence == 0] == [0] * 9
    outcomes = sorted(node.outcome for node in placed if node.outcome)
    assert outcomes == [f"{i + 1}: {each.score:.3f}" for i, each in enumerate(generation.sequences)]


def test_a_page_shows_the_tree_where_there_are_beams_and_alternatives_always() -> None:
    for num_beams in (1, 3):
        generation = found(num_beams)
        body = view_generation(generation).section().body
        assert ("<svg" in body) == (num_beams > 1)
        assert body.count("<path") == (len(generation.tree) if num_beams > 1 else 0)
        assert body.count('<table class="grid">') == num_beams
        grid = alternatives_grid(generation, 0)
        assert [len(row) for row in grid.cells] == [9] * 4
        framed = [sum(row[column].is_framed for row in grid.cells) for column in range(9)]
        assert max(framed) == 1


def test_what_a_prompt_or_a_token_says_is_no_html() -> None:
    body = view_generation(found(2, "a <script>x</script> b")).section().body
    assert "<script>" not in body
    assert "a &lt;script&gt;x" in body


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_picture_has_the_tree_over_the_grid(num_beams: int, tmp_path) -> None:
    generation = found(num_beams)
    figure = generation_figure(generation)
    assert len(figure.axes) == (2 if num_beams > 1 else 1)
    written = {text.get_text() for ax in figure.axes for text in ax.texts}
    grid = alternatives_grid(generation, 0)
    assert {cell.text for row in grid.cells for cell in row} <= written
    view_generation(generation).save_png(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
