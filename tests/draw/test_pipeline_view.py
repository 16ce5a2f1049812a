"""The page and the picture of a pipeline: five stages, nothing left out, nothing let through."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from functools import cache

import torch

from mi_toolkit import trace_pipeline
from mi_toolkit.draw.figures.prompt import pipeline_figure
from mi_toolkit.draw.markup import pixel_image
from mi_toolkit.draw.pipeline import lens_grid, view_pipeline, view_position
from mi_toolkit.text.pipeline import Pipeline
from tests.models_here import loaded


@cache
def found(name: str = "toy-gpt2", *, lens: bool = True) -> Pipeline:
    return trace_pipeline(loaded(name), "Mary <b>and</b> John went to the store", lens=lens)


def test_a_page_has_five_stages_every_pattern_and_both_grids() -> None:
    traced = found()
    body = view_pipeline(traced).section().body
    stages = ["1. Tokens", "2. Embedding", "3. Attention", "4. MLP", "5. Output"]
    assert re.findall(r"<h2>(.*?)</h2>", body) == stages
    assert body.count('<img class="pixels"') == 16 + 1
    assert body.count('<table class="grid">') == 2
    assert "<b>and</b>" not in body
    assert "&lt;" in body
    labels = sum(len(carried) for _, carried in traced.attention.labels)
    assert body.count("<i style=") == labels
    assert view_pipeline(found(lens=False)).section().body.count('<table class="grid">') == 1


def test_where_positions_come_in_with_the_attention_the_page_says_so() -> None:
    said = "Positions come in with the attention."
    assert said in view_pipeline(found("toy-pythia")).section().body
    assert said not in view_pipeline(found()).section().body


def test_pixels_are_the_values(tmp_path) -> None:
    from matplotlib.image import imread

    values = torch.tensor([[0.0, 1.0, 0.5], [1.0, -3.0, 7.0]])
    stops = ("#000000", "#ffffff")
    image = pixel_image(values, said='a "b"', width=30, height=20, stops=stops)
    assert 'alt="a &#34;b&#34;"' in image
    (tmp_path / "image.png").write_bytes(
        base64.b64decode(re.search(r"base64,([^\"]+)", image).group(1))
    )
    shown = imread(tmp_path / "image.png")
    assert shown[..., 0].round(1).tolist() == [[0.0, 1.0, 0.5], [1.0, 0.0, 1.0]]


def test_a_picture_has_every_pattern_the_norms_and_the_lens(tmp_path) -> None:
    figure = pipeline_figure(found())
    assert len(figure.axes) == 16 + 2 + 1
    written = {text.get_text() for text in figure.axes[-1].texts}
    assert {"layer 3", "embedding", "·John"} <= written
    assert len(pipeline_figure(found(lens=False)).axes) == 16 + 2 + 1
    view_pipeline(found()).save_png(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_of_tokens_that_tie_the_one_that_is_chosen_is_framed_and_ranks_are_shared() -> None:
    """As in bfloat16: here the second most probable token is as probable as the first."""
    traced = found()
    output = traced.output
    log_probs = output.top_log_probs.clone()
    log_probs[:, 1] = log_probs[:, 0]
    tied = replace(traced, output=replace(output, top_log_probs=log_probs))
    ranks = tied.to_pandas("output").groupby("position")["rank"].apply(list)
    assert all(each[:3] == [1, 1, 3] for each in ranks)
    page = view_position(tied, 2).section().body
    assert re.findall(r"<td>(\d+)</td>", page)[:3] == ["1", "1", "3"]
    lens = traced.output.require_lens()
    every = replace(lens, final_ranks=torch.ones_like(lens.final_ranks))
    grid = lens_grid(traced, every)
    for row, entry in zip(grid.cells, (lens.names.index(name) for name in grid.rows), strict=True):
        for position, cell in enumerate(row):
            chosen = int(lens.top_ids[entry, position, 0])
            assert cell.is_framed == (chosen == int(output.top_ids[position, 0]))
