from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mi_toolkit.core.errors import ActivationsError, PromptError, UnknownNameError
from mi_toolkit.core.head import Head
from mi_toolkit.core.model import HookedModel, pattern_hook
from mi_toolkit.core.tokens import tokenise
from mi_toolkit.draw.attention import view_attention
from tests.models_here import loaded

PROMPT = "When Mary and John went to the store"


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return loaded("toy-gpt2")


def own_patterns(model: Any, ids: Tensor, layer: int) -> Tensor:
    """What the model's own hooks give, `[head query key]`."""
    seen: list[Tensor] = []
    model.run_with_hooks(
        ids, fwd_hooks=[(pattern_hook(layer), lambda pattern, hook: seen.append(pattern.detach()))]
    )
    return seen[0][0]


@pytest.mark.parametrize("name", ["toy-gpt2", "toy-gpt-neo", "toy-qwen2"])
def test_patterns_are_those_of_the_model(name: str) -> None:
    model = loaded(name)
    view = view_attention(model, PROMPT, layer=[0, 1], heads=[2, 1])
    ids = tokenise(model, PROMPT).ids
    assert view.heads == (Head(0, 2), Head(1, 2), Head(0, 1), Head(1, 1))
    for pattern, (layer, head) in zip(view.patterns, view.heads, strict=True):
        torch.testing.assert_close(pattern, own_patterns(model, ids, layer)[head])
    assert len(view.tokens) == ids.shape[1]
    assert "".join(view.tokens[int(tokenise(model, PROMPT).has_bos) :]) == PROMPT


def test_all_heads_of_a_layer_are_shown_where_none_are_named(model: HookedModel) -> None:
    view = view_attention(model, PROMPT, layer=1)
    assert view.heads == tuple(Head(1, head) for head in range(4))
    assert view.patterns.shape == (4, len(view.tokens), len(view.tokens))
    torch.testing.assert_close(view.patterns.sum(-1), torch.ones(view.patterns.shape[:2]))


@pytest.mark.parametrize(
    "heads",
    ["L2H1", "2.1", (2, 1), Head(2, 1), ["L2H1"], [(2, 1)], [Head(2, 1), "a2.h1"]],
)
def test_a_head_is_named_in_any_of_its_ways(model: HookedModel, heads: Any) -> None:
    assert view_attention(model, PROMPT, heads=heads).heads == (Head(2, 1),)


@pytest.mark.parametrize("heads", [1, [1], "1", ["1"]])
def test_a_number_is_a_head_of_the_layer(model: HookedModel, heads: Any) -> None:
    assert view_attention(model, PROMPT, layer=3, heads=heads).heads == (Head(3, 1),)


def test_ids_are_shown_as_given(model: HookedModel) -> None:
    ids = tokenise(model, PROMPT, prepend_bos=False).sequence(0)
    view = view_attention(model, ids, layer=0)
    assert view.tokens == view_attention(model, PROMPT, layer=0, prepend_bos=False).tokens
    assert "".join(view.tokens) == PROMPT


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"layer": 9}, "toy-gpt2 has no attention in layer 9: its layers are 0 to 3."),
        ({"layer": -1}, "toy-gpt2 has no attention in layer -1: its layers are 0 to 3."),
        ({"heads": "L9H0"}, "toy-gpt2 has no attention in layer 9: its layers are 0 to 3."),
        ({"layer": 0, "heads": 7}, "toy-gpt2 has no head 7 in layer 0: its heads are 0 to 3."),
        ({"heads": "L0H7"}, "toy-gpt2 has no head 7 in layer 0: its heads are 0 to 3."),
        ({"layer": 1, "heads": "L0H2"}, "L0H2 is not in layer 1. Leave layer out"),
        ({"heads": 2}, "Head 2 of which layer? Give a layer, or"),
        ({"heads": "first"}, "'first' names no head."),
        ({}, "Say which heads of toy-gpt2 to show: layer=0"),
        ({"layer": 0, "heads": []}, "The list of heads is empty"),
    ],
)
def test_a_head_that_is_not_there_is_named(
    model: HookedModel, choice: dict[str, Any], message: str
) -> None:
    with pytest.raises(UnknownNameError, match=re.escape(message)):
        view_attention(model, PROMPT, **choice)


def test_several_prompts_are_too_many(model: HookedModel) -> None:
    with pytest.raises(PromptError, match=r"one prompt at a time, and 2 were given.*Page"):
        view_attention(model, ["one", "two"], layer=0)


def test_it_says_what_it_holds(model: HookedModel) -> None:
    assert repr(view_attention(model, PROMPT, heads="L0H1")).startswith(
        "AttentionView of toy-gpt2: L0H1, on "
    )
    assert "16 heads of layers 0, 1, 2, 3" in repr(view_attention(model, PROMPT, layer=range(4)))


def test_a_picture_and_a_page_are_written(model: HookedModel, tmp_path: Path) -> None:
    view = view_attention(model, PROMPT, layer=0)
    view.save_png(tmp_path / "heads.png")
    view.save_html(tmp_path / "heads.html")
    assert (tmp_path / "heads.png").read_bytes().startswith(b"\x89PNG")
    assert "Attention in toy-gpt2" in (tmp_path / "heads.html").read_text("utf-8")


TOKENS = ["one", " two", " three"]
STEPS = torch.tensor([[1.0, 0, 0], [0.25, 0.75, 0], [0.2, 0.3, 0.5]])


def test_patterns_computed_elsewhere_are_drawn_as_they_are(
    model: HookedModel, tmp_path: Path
) -> None:
    hooked: Any = model
    _, cache = hooked.run_with_cache(PROMPT)
    patterns, tokens = cache[pattern_hook(2)], hooked.to_str_tokens(PROMPT)
    of_model = view_attention(model, PROMPT, layer=2, heads=[3, 1])
    for given in (patterns, patterns[0], patterns[0].numpy()):
        view = view_attention(given, tokens, layer=2, heads=[3, 1])
        assert view.heads == of_model.heads
        torch.testing.assert_close(view.patterns, of_model.patterns)
    view.save_svg(tmp_path / "heads.svg")
    assert "L2H3" in (tmp_path / "heads.svg").read_text("utf-8")
    view.save_html(tmp_path / "heads.html")
    assert "given patterns: L2H3, L2H1" in (tmp_path / "heads.html").read_text("utf-8")


def test_patterns_without_a_layer_have_the_names_that_they_are_given() -> None:
    two = torch.stack([STEPS, torch.eye(3)])
    assert view_attention(STEPS, TOKENS).heads == ("H0",)
    assert view_attention(two, TOKENS).heads == ("H0", "H1")
    view = view_attention(two, TOKENS, heads=["L5H1", "mean of all"])
    assert view.heads == ("L5H1", "mean of all")
    assert torch.equal(view.patterns, two)
    by_layer = view_attention(torch.stack([two, two.flip(0)]), TOKENS, layer=[4, 7], heads="L7H0")
    assert by_layer.heads == (Head(7, 0),)
    assert torch.equal(by_layer.patterns[0], torch.eye(3))


@pytest.mark.parametrize(
    ("patterns", "tokens", "how", "message"),
    [
        (STEPS, "one two three", {}, "tokens as a list of strings"),
        (STEPS, [1, 2, 3], {}, "tokens as a list of strings"),
        (STEPS, None, {}, "tokens as a list of strings"),
        (STEPS, TOKENS[:2], {}, "of 3 tokens, and 2 were given"),
        (STEPS[:2], TOKENS, {}, "as many keys as queries; these have shape [2, 3]"),
        (STEPS.mT, TOKENS, {}, "looks at a later token"),
        (STEPS.log(), TOKENS, {}, "after the softmax is between 0 and 1"),
        (STEPS * torch.nan, TOKENS, {}, "after the softmax is between 0 and 1"),
        (STEPS.expand(2, 4, 3, 3), TOKENS, {}, "The first of four axes has 2 entries"),
        (STEPS.expand(4, 3, 3), TOKENS, {"heads": ["a"]}, "which are 4, not 1"),
    ],
)
def test_what_is_no_pattern_is_refused(
    patterns: Tensor, tokens: Any, how: dict[str, Any], message: str
) -> None:
    with pytest.raises(ActivationsError, match=re.escape(message)):
        view_attention(patterns, tokens, **how)
