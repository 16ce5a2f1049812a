"""What a layer sees is read off the model, and figures follow what is really visible."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import Any

import pytest
import torch
from transformers.masking_utils import create_causal_mask
from transformers.models.llama import modeling_llama

import mi_toolkit as mi
from mi_toolkit.core import attention_masks
from mi_toolkit.core.attention_masks import sights
from mi_toolkit.core.model import HookedModel, pattern_hook
from mi_toolkit.core.sight import Square
from mi_toolkit.core.tokens import from_sequences
from mi_toolkit.heads.stimulus_run import BLOCKS_OF_QUERIES, WHOLE_PATTERNS
from tests.families.claims import Subject, scores, subject_of
from tests.families.zoo import ROWS, Row
from tests.models_here import loaded

CHUNK = 48
BIDIRECTIONAL = "gemma3_text, bidirectional"


@cache
def chunked() -> Subject:
    fields = ROWS["llama4_text"].fields | {"attention_chunk_size": CHUNK}
    return subject_of(Row(model_type="llama4_text", fields=fields))


@cache
def of_row(name: str) -> Subject:
    return subject_of(ROWS[name])


def path(subject: Subject, ids: torch.Tensor) -> str:
    return mi.classify_heads(subject.model, ids).provenance.attention["prompt"]


def ids_of(n: int, rows: int = 2) -> torch.Tensor:
    return torch.randint(3, 300, (rows, n), generator=torch.Generator().manual_seed(n))


def seen_by(model: HookedModel, n: int) -> dict[int, Any]:
    layers = range(model.cfg.n_layers)
    return sights(model, layers, mi.describe_model(model).windows, n)


def test_a_chunk_is_seen_only_where_it_bites() -> None:
    found = chunked()
    assert path(found, ids_of(CHUNK)) == BLOCKS_OF_QUERIES
    assert path(found, ids_of(CHUNK + 1)) == WHOLE_PATTERNS
    assert set(seen_by(found.model, CHUNK).values()) == {None}
    at_length = seen_by(found.model, CHUNK + 20)
    position = torch.arange(CHUNK + 20)
    wanted = (position <= position[:, None]) & (position // CHUNK == position[:, None] // CHUNK)
    squares = [sight for sight in at_length.values() if isinstance(sight, Square)]
    assert len(squares) == 3
    assert at_length[3] is None, "every fourth layer of Llama 4 sees all"
    assert all(torch.equal(square.seen, wanted) for square in squares)


def test_scores_and_chance_follow_a_chunk_beyond_its_length() -> None:
    with torch.no_grad():
        scores(replace(chunked(), ids=ids_of(CHUNK + 20)))


def prefix(batch: Any, head: Any, query: Any, key: Any) -> Any:
    return key < 5


def test_a_mask_of_the_caller_s_own_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prefix whose tokens see each other, as vision-language models have."""
    with monkeypatch.context() as patched:
        own = partial(create_causal_mask, or_mask_function=prefix)
        patched.setattr(modeling_llama, "create_causal_mask", own)
        subject = subject_of(ROWS["llama"])
        assert path(subject, subject.ids) == WHOLE_PATTERNS
        (square,) = set(seen_by(subject.model, 12).values())
        assert square.looks_ahead
        assert torch.equal(square.seen, torch.ones(12, 12).tril().bool() | (torch.arange(12) < 5))
        with torch.no_grad():
            scores(subject)


def test_causal_windows_are_computed_in_blocks() -> None:
    for name in ("llama", "mistral", "qwen2, windows", "gemma3_text", "gpt_neo"):
        subject = of_row(name)
        windows = mi.describe_model(subject.model).windows
        assert seen_by(subject.model, 40) == dict(enumerate(windows))
        assert path(subject, subject.ids) == BLOCKS_OF_QUERIES


def test_prompts_of_unequal_length_give_what_each_gives_alone_though_padding_could_be_seen() -> (
    None
):
    model = of_row(BIDIRECTIONAL).model
    texts = [ids_of(n, 1)[0] for n in (30, 18, 30, 25)]
    batch = from_sequences([text.tolist() for text in texts], 0)
    together = mi.classify_heads(model, batch)
    alone = [mi.classify_heads(model, text) for text in texts]
    for name in ("previous_token", "current_token", "first_token"):
        mean = torch.stack([report.score[report.index(name)] for report in alone]).mean(dim=0)
        torch.testing.assert_close(together.score[together.index(name)], mean, atol=1e-6, rtol=0)
    pair, other = ids_of(30), ids_of(18, 1)[0]
    of_pair = mi.classify_heads(model, pair)
    rows = [*pair.tolist(), other.tolist()]
    of_three = mi.classify_heads(model, from_sequences(rows, 0))
    positional = of_pair.score[of_pair.index("positional")]
    assert 0 < float(positional.min()) < 1
    torch.testing.assert_close(of_three.score[of_three.index("positional")], positional)


def test_nobody_s_hooks_fire_while_masks_are_read() -> None:
    model, seen = subject_of(ROWS["llama"]).model, []
    hook = (pattern_hook(0), lambda pattern, hook: seen.append(pattern.shape[-1]))
    with model.hooks(fwd_hooks=[hook]):
        mi.classify_heads(model, ids_of(20))
    assert seen == [20]


@pytest.mark.parametrize("name", ["toy-gpt2", "toy-gpt-neo"])
def test_what_is_not_known_is_observed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded(name)
    told = seen_by(model, 60)
    monkeypatch.setattr(attention_masks, "_masks", lambda _: {})
    assert seen_by(model, 60) == told
    found = seen_by(chunked().model, CHUNK + 20)
    assert [isinstance(sight, Square) for sight in found.values()] == [True, True, True, False]
