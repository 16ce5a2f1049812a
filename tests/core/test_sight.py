"""What a query may see, against the definition."""

from __future__ import annotations

import torch

from mi_toolkit.core.sight import Square, looks_ahead, sees, visible_keys
from tests.dense_masks import visible

N = 6


def grid() -> tuple[torch.Tensor, torch.Tensor]:
    place = torch.arange(N)
    return place[:, None].expand(N, N), place[None, :].expand(N, N)


def test_a_window_shows_its_own_key_and_those_before() -> None:
    for window in (None, 1, 2, 5, 9):
        assert torch.equal(sees(window, *grid()), visible(N, window)), window
        assert torch.equal(visible_keys(N, window), visible(N, window).sum(dim=-1).float())
        assert visible_keys(N, window).dtype == torch.float32
        assert not looks_ahead(window)


def test_a_square_shows_what_it_marks_and_of_shorter_sequences_its_corner() -> None:
    marked = torch.rand(N, N, generator=torch.Generator().manual_seed(0)) > 0.4
    square = Square(marked)
    assert torch.equal(sees(square, *grid()), marked)
    assert visible_keys(4, square).tolist() == marked[:4, :4].sum(dim=-1).tolist()
    assert looks_ahead(square)


def test_a_square_without_a_later_key_does_not_look_ahead() -> None:
    assert not looks_ahead(Square(torch.ones(N, N, dtype=torch.bool).tril()))
    ahead = torch.eye(N, dtype=torch.bool)
    ahead[2, 3] = True
    assert looks_ahead(Square(ahead))
