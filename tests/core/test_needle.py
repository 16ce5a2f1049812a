"""A needle in a haystack: where it lies, and what is copied out of it."""

from __future__ import annotations

import pytest

from mi_toolkit.core.errors import PromptError
from mi_toolkit.core.stimuli import needle_prompts
from tests.models_here import TOYS, loaded


@pytest.mark.parametrize("name", TOYS)
def test_the_answer_is_the_needle_word_for_word_and_ends_the_text(name: str) -> None:
    model = loaded(name)
    batch = needle_prompts(model, n_tokens=300)
    assert batch.ids.shape == (16, 300)
    assert (batch.lengths == 300).all()
    assert batch.has_bos.all()
    for index in range(len(batch)):
        ids, roles = batch.sequence(index), batch.roles_of(index)
        hidden, answer = roles["needle"], roles["answer"]
        assert answer.stop == 300
        assert hidden.stop < answer.start
        assert ids[hidden.start : hidden.stop].tolist() == ids[answer.start :].tolist()
        words = model.tokenizer.decode(ids[hidden.start : hidden.stop]).split()
        assert len(set(words)) == 4


def test_the_needle_wanders_from_the_beginning_to_the_end() -> None:
    starts = needle_prompts(loaded("toy-gpt2"), n_tokens=300).roles["needle"][:, 0]
    assert starts[0] < 20
    assert starts[-1] > 200
    assert (starts.diff() > -20).all()


def test_a_seed_decides_words_and_haystack() -> None:
    model = loaded("toy-gpt2")
    assert needle_prompts(model, seed=1).digest == needle_prompts(model, seed=1).digest
    assert needle_prompts(model, seed=1).digest != needle_prompts(model, seed=2).digest


def test_a_haystack_longer_than_all_passages_begins_them_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = loaded("toy-gpt2")
    monkeypatch.setattr(model.cfg, "n_ctx", 40_000)
    assert needle_prompts(model, n_tokens=30_000, n_sequences=1).ids.shape == (1, 30_000)


def test_no_room_for_a_haystack_is_told() -> None:
    with pytest.raises(PromptError, match="A needle in a haystack of 30 tokens leaves"):
        needle_prompts(loaded("toy-gpt2"), n_tokens=30)
