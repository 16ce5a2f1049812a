"""Attention in blocks of queries: the same outputs, patterns, entropies and figures as whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mi_toolkit.core.errors import PromptError, UnsupportedModelError
from mi_toolkit.core.model import pattern_hook, z_hook
from mi_toolkit.core.passes import visit_activations
from mi_toolkit.heads import chunked_attention as attention_swap
from mi_toolkit.heads import chunked_attention as blockwise
from mi_toolkit.heads import stimulus_run
from mi_toolkit.heads.block_figures import PatternBlock
from mi_toolkit.heads.chunked_attention import (
    attend,
    attention_by,
    block_shape,
    blocks_of,
    unsupported_reason,
)
from mi_toolkit.heads.classify import classify_heads
from mi_toolkit.heads.kinds import DistributionBehaviour
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.models.describe import describe_model
from tests.dense_masks import visible
from tests.models_here import TOYS, loaded
from tests.prompts_made import prompts_with_repeats
from tests.report_against_reference import FIGURES, fed

WHOLE, BLOCKS = stimulus_run.WHOLE_PATTERNS, stimulus_run.BLOCKS_OF_QUERIES


def drawn(n: int, heads: int, kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    query = torch.randn(3, heads, n, 8, generator=generator) * 2
    key, value = torch.randn(2, 3, kv_heads, n, 8, generator=generator)
    return query, key, value


@pytest.fixture(params=["large", "small", "one head at a time"])
def cut(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of several sizes: all at once, a few queries, some heads of one sequence."""
    if request.param != "large":
        monkeypatch.setattr(blockwise, "MOST_QUERIES", 7)
        monkeypatch.setattr(blockwise, "FEWEST_QUERIES", 3)
        entries = 3000 if request.param == "small" else 200
        monkeypatch.setattr(blockwise, "CACHED", entries)


@pytest.mark.parametrize("window", [None, 1, 9, 64])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2)])
def test_blocks_give_the_outputs_patterns_and_entropies_of_whole_attention(
    cut: None, heads: int, kv_heads: int, window: int | None
) -> None:
    n = 50
    query, key, value = drawn(n, heads, kv_heads)
    keys, values = (each.repeat_interleave(heads // kv_heads, dim=1) for each in (key, value))
    mask = visible(n, window)
    patterns = (query @ keys.mT * 0.3).masked_fill(~mask, -torch.inf).softmax(dim=-1)
    seen, entropy = torch.zeros_like(patterns), torch.zeros(patterns.shape[:3])

    def show(block: PatternBlock) -> None:
        sequences, n_heads, queries, n_keys = block.patterns.shape
        at = (
            slice(block.first_sequence, block.first_sequence + sequences),
            slice(block.first_head, block.first_head + n_heads),
            slice(block.first_query, block.first_query + queries),
        )
        seen[(*at, slice(block.first_key, block.first_key + n_keys))] += block.patterns
        assert block.entropy is not None
        entropy[at] = block.entropy

    z = attend(query, key, value, scale=0.3, window=window, show=show, with_entropy=True)
    wanted = functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=0.3)
    assert torch.allclose(z, wanted.transpose(1, 2), atol=1e-5)
    assert torch.allclose(seen, patterns, atol=1e-6)
    assert torch.allclose(entropy, torch.special.entr(patterns).sum(dim=-1), atol=1e-5)


def test_entropy_is_right_where_a_query_s_own_share_is_too_small_to_tell() -> None:
    query, key, value = drawn(40, 4, 4)
    scores = (query @ key.mT * 30).masked_fill(~visible(40, None), -torch.inf)
    patterns = scores.double().softmax(dim=-1)
    assert patterns.diagonal(dim1=-2, dim2=-1).min() < blockwise.LEAST_SHARE
    entropy: list[Tensor | None] = []
    attend(
        query,
        key,
        value,
        scale=30.0,
        window=None,
        show=lambda block: entropy.append(block.entropy),
        with_entropy=True,
    )
    wanted = torch.special.entr(patterns).sum(dim=-1).float()
    assert len(entropy) == 1
    assert torch.allclose(entropy[0], wanted, atol=2e-3)  # of scores up to 1,000


def test_whole_patterns_are_cut_into_blocks_without_a_gap(cut: None) -> None:
    patterns = torch.rand(3, 4, 30, 30).tril()
    seen = torch.zeros_like(patterns)
    for block in blocks_of(patterns):
        sequences, heads, queries, keys = block.patterns.shape
        first, head, query = block.first_sequence, block.first_head, block.first_query
        seen[first : first + sequences, head : head + heads, query : query + queries, :keys] += (
            block.patterns
        )
    assert torch.equal(seen, patterns)


def test_blocks_shrink_as_sequences_grow() -> None:
    sizes = []
    for n in (64, 512, 4096, 32768):
        shape = block_shape(8, 3, 3, n, threads=1)
        sizes.append(shape.queries * shape.kv_heads * 3 * shape.sequences * n)
        assert shape.queries >= blockwise.FEWEST_QUERIES
    assert max(sizes[:3]) <= blockwise.CACHED
    assert sizes[-1] == 32768 * 3 * blockwise.FEWEST_QUERIES, "one key head, the fewest queries"


def both_paths(
    name: str, monkeypatch: pytest.MonkeyPatch, lengths: list[int]
) -> tuple[HeadReport, HeadReport]:
    model = loaded(name)
    batch = prompts_with_repeats(model.cfg.d_vocab, 0, lengths)
    monkeypatch.setattr("mi_toolkit.heads.classify.tokenise", fed(batch))
    blocks = classify_heads(model, "")
    with monkeypatch.context() as patched:
        patched.setattr(stimulus_run, "unsupported_reason", lambda *_: "asked for by a test")
        whole = classify_heads(model, "")
    return blocks, whole


@pytest.mark.parametrize("name", TOYS)
@pytest.mark.parametrize("lengths", [[150], [70, 45, 66, 30, 31, 44, 50, 20, 35]])
def test_both_paths_give_the_same_report_in_every_family(
    name: str, lengths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blockwise, "MOST_QUERIES", 32)
    monkeypatch.setattr(blockwise, "CACHED", 20_000)
    blocks, whole = both_paths(name, monkeypatch, lengths)
    assert blocks.provenance.attention == {"prompt": BLOCKS}
    assert whole.provenance.attention == {"prompt": WHOLE}
    for figure in FIGURES:
        torch.testing.assert_close(
            getattr(blocks, figure), getattr(whole, figure), atol=1e-5, rtol=0, equal_nan=True
        )
    assert torch.equal(blocks.labels, whole.labels)
    assert torch.equal(blocks.scope, whole.scope)


@pytest.mark.parametrize("name", TOYS)
def test_heads_outputs_are_the_model_s_own(name: str) -> None:
    model, ids = loaded(name), torch.arange(5, 90)[None]
    names = [z_hook(layer) for layer in range(model.cfg.n_layers)]

    def outputs() -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        visit_activations(model, ids, names, lambda name, z: found.update({name: z.clone()}))
        return found

    def attention(layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        return attend(
            query,
            key,
            value,
            scale=scale,
            window=describe_model(model).windows[layer],
            show=lambda _: None,
            with_entropy=False,
        )

    own = outputs()
    with attention_by(model, range(model.cfg.n_layers), attention):
        swapped = outputs()
    again = outputs()
    for hook in names:
        assert torch.allclose(swapped[hook], own[hook], atol=1e-4), hook
        assert torch.equal(again[hook], own[hook]), hook


@pytest.mark.parametrize("name", TOYS)
def test_the_model_s_attention_comes_back_after_an_error(name: str) -> None:
    model = loaded(name)
    components = [block.attn for block in model.blocks]
    before = [dict(component.__dict__) for component in components]
    implementation = model.original_model.config._attn_implementation

    def fails(*_: object) -> Tensor:
        raise KeyboardInterrupt

    ids = torch.arange(5, 20)[None]
    with (
        pytest.raises(KeyboardInterrupt),
        attention_by(model, range(model.cfg.n_layers), fails),
    ):
        visit_activations(model, ids, [z_hook(0)], lambda *_: None)
    for component, had in zip(components, before, strict=True):
        assert component.__dict__.keys() == had.keys()
    assert model.original_model.config._attn_implementation == implementation
    assert not attention_swap._attending


def test_a_hook_on_patterns_has_them_made_whole() -> None:
    model, seen = loaded("toy-gpt2"), []
    hook = (pattern_hook(1), lambda pattern, hook: seen.append(pattern.shape))
    with model.hooks(fwd_hooks=[hook]):
        assert "has a hook" in unsupported_reason(model, [1])
        report = classify_heads(model, torch.arange(3, 40))
    assert report.provenance.attention == {"prompt": WHOLE}
    assert seen
    assert unsupported_reason(model, [1]) is None


def test_an_unknown_attention_is_measured_on_whole_patterns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(attention_swap._WAYS, "JointQKVAttentionBridge")
    model = loaded("toy-gpt2")
    report = classify_heads(model, torch.arange(3, 40))
    assert report.provenance.attention == {"prompt": WHOLE}
    with (
        pytest.raises(UnsupportedModelError, match="attention of layer 0 is a JointQKVAttention"),
        attention_by(model, [0], lambda *_: torch.zeros(0)),
    ):
        pass


def test_whole_patterns_without_room_are_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stimulus_run, "available_bytes", lambda _: 1000)
    model = loaded("toy-gpt2")
    assert classify_heads(model, torch.arange(3, 40)).provenance.attention == {"prompt": BLOCKS}

    def spread(rows, following):
        figure = rows.patterns.sum(dim=-1)
        return figure, torch.ones_like(figure)

    own = DistributionBehaviour(
        name="spread", meaning="how it spreads", trigger="a prompt", terms=spread
    )
    with pytest.raises(
        PromptError, match="cannot be read in blocks of queries: spread is a figure of whole"
    ):
        classify_heads(model, torch.arange(3, 40), behaviours=[own])


def test_the_path_is_kept_through_a_file(tmp_path) -> None:
    report = classify_heads(loaded("toy-opt"), torch.arange(3, 40))
    report.save(tmp_path / "report.safetensors")
    loaded_again = HeadReport.load(tmp_path / "report.safetensors")
    assert loaded_again.provenance.attention == {"prompt": BLOCKS}
