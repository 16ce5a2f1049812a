from __future__ import annotations

import re

import pytest
import torch

from mi_toolkit.draw.head_listing import pattern_html


def even(n_tokens: int) -> torch.Tensor:
    rows = torch.ones(n_tokens, n_tokens).tril()
    return rows / rows.sum(dim=-1, keepdim=True)


def test_few_tokens_make_a_table_with_every_value_in_percent() -> None:
    pattern = torch.tensor([[1.0, 0.0, 0.0], [0.25, 0.75, 0.0], [0.004, 0.006, 0.99]])
    drawn = pattern_html(pattern, ["<s>", " Mary", " and"], "L0H0")
    rows = re.findall(r"<tr>(.*?)</tr>", drawn)[1:]
    values = [re.findall(r'title="[^"]*">(.*?)</td>', row) for row in rows]
    assert values == [["100"], ["25", "75"], ["0", "1", "99"]]
    assert 'title="·and → ·Mary: 0.0060"' in drawn
    assert "&lt;s&gt;" in drawn
    assert "<s>" not in drawn
    assert drawn.count('class="nothing"') == 2
    assert "<img" not in drawn


@pytest.mark.parametrize(("n_tokens", "n_labels"), [(25, 25), (60, 60), (128, 43), (600, 47)])
def test_many_tokens_make_a_picture_with_labels_that_do_not_run_into_each_other(
    n_tokens: int, n_labels: int
) -> None:
    drawn = pattern_html(even(n_tokens), [f"t{each}" for each in range(n_tokens)], "L0H0")
    assert "<img" in drawn
    cell = int(re.search(r"--cell:(\d+)px", drawn)[1])
    step = int(re.search(r"grid-column:2/span (\d+)", drawn)[1])
    assert cell * step >= 13
    assert drawn.count('class="over"') == drawn.count('class="left"') == n_labels
    assert f'width="{cell * n_tokens}"' in drawn


def test_of_many_tokens_the_strongest_keys_are_listed_and_none_of_the_future() -> None:
    near = torch.stack([torch.arange(1.0, 31.0) ** 2] * 30).tril()
    near /= near.sum(dim=-1, keepdim=True)
    drawn = pattern_html(near, [f"t{each}" for each in range(30)], "L0H0")
    assert '<th scope="row">0 t0</th><td>t0 100%</td>' in drawn
    assert '<th scope="row">1 t1</th><td>t1 80%, t0 20%</td>' in drawn


def test_a_picture_of_the_longest_prompt_of_the_page_is_small() -> None:
    torch.manual_seed(0)
    noise = torch.rand(128, 128).tril()
    drawn = pattern_html(noise / noise.sum(dim=-1, keepdim=True), ["token"] * 128, "L0H0")
    assert len(drawn) < 80_000  # the values among them, two bytes each
