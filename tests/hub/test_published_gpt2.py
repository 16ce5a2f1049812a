"""GPT-2 from the hub against figures that others have published (`pytest -m hub`)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import mi_toolkit as mi
from mi_toolkit.core.passes import visit_patterns

pytestmark = pytest.mark.hub

PUBLISHED = json.loads(
    (Path(__file__).parents[1] / "data" / "gpt2_published_head_scores.json").read_text()
)
OFFSETS = {
    "Previous Token Scores": 1,
    "Duplicate Token Scores": 100,
    "Induction Head Scores": 99,
}


@pytest.fixture(scope="module")
def gpt2():
    return mi.load_model("gpt2")


@pytest.fixture(scope="module")
def diagonal_means(gpt2) -> dict[str, torch.Tensor]:
    """The source's own figures, from our patterns: mean of `pattern.diagonal(-offset)`."""
    torch.manual_seed(0)
    once = torch.randint(100, 20_000, (2, 100))
    means = {name: torch.zeros(12, 12) for name in OFFSETS}

    def measure(layer: int, patterns: torch.Tensor) -> None:
        for name, offset in OFFSETS.items():
            diagonal = patterns.diagonal(-offset, dim1=-2, dim2=-1)
            means[name][layer] = diagonal.mean(dim=(0, -1))

    visit_patterns(gpt2, torch.cat([once, once], dim=1), range(12), measure)
    return means


@pytest.mark.parametrize("name", OFFSETS)
def test_the_published_matrices_come_out_of_our_patterns(name: str, diagonal_means) -> None:
    published = torch.tensor(PUBLISHED["scores"][name])
    torch.testing.assert_close(diagonal_means[name], published, atol=5e-3, rtol=0)


def test_the_heads_of_the_literature_are_found(gpt2) -> None:
    report = mi.classify_heads(gpt2)
    assert mi.Head(4, 11) in report.heads("previous_token")
    assert {mi.Head.of(name) for name in ("5.1", "5.5", "6.9", "7.2", "7.10")} <= set(
        report.heads("induction")
    )
    assert {mi.Head.of(name) for name in ("0.5", "3.0")} <= set(report.heads("duplicate_token"))
