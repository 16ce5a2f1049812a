"""What a model is fed: BOS policy, checks, padding."""

from __future__ import annotations

import pytest
import torch

from mi_toolkit.errors import PromptError
from mi_toolkit.prompts.stimuli import natural, passages, repeated_random, usable_ids
from mi_toolkit.prompts.tokens import bos_token_id, from_sequences, tokenise
from tests.models_here import TOYS, loaded

PROMPT = "The capital of France is"


@pytest.fixture
def model():
    return loaded("toy-gpt2")


@pytest.mark.parametrize("name", TOYS)
def test_a_string_gets_one_bos_whatever_the_family_does_by_default(name: str) -> None:
    batch = tokenise(loaded(name), PROMPT)
    bos = bos_token_id(loaded(name).tokenizer)
    assert batch.ids[0, 0] == bos
    assert batch.ids[0, 1] != bos
    assert batch.has_bos.tolist() == [True]
    without = tokenise(loaded(name), PROMPT, prepend_bos=False)
    assert without.ids[0].tolist() == batch.ids[0, 1:].tolist()
    assert without.has_bos.tolist() == [False]


def test_ids_are_used_as_given(model) -> None:
    ids = torch.tensor([5, 6, 7])
    batch = tokenise(model, ids)
    assert batch.ids.tolist() == [[5, 6, 7]]
    assert batch.has_bos.tolist() == [False]


def test_a_bos_typed_by_hand_is_a_bos(model) -> None:
    bos = bos_token_id(model.tokenizer)
    assert tokenise(model, torch.tensor([bos, 5])).has_bos.tolist() == [True]


def test_prompts_of_unequal_length_keep_their_own(model) -> None:
    batch = tokenise(model, [PROMPT, "2 + 2 ="])
    assert batch.lengths[0] != batch.lengths[1]
    for index, text in enumerate([PROMPT, "2 + 2 ="]):
        alone = tokenise(model, text)
        assert batch.sequence(index).tolist() == alone.ids[0].tolist()


def test_the_digest_tells_prompts_apart_and_padding_not() -> None:
    one = from_sequences([[1, 2], [3]], None)
    assert one.digest == from_sequences([[1, 2], [3]], 0).digest
    assert one.digest != from_sequences([[1], [2, 3]], None).digest
    assert one.part(1, 2).ids.tolist() == [[3]]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "The list of prompts is empty"),
        ("", r"Prompt 0 of 1 is empty: '' has no tokens"),
        (["hi", ""], r"Prompt 1 of 2 is empty"),
        (
            torch.tensor([], dtype=torch.long),
            r"at least one token; the tensor given has shape \[0\]",
        ),
        (torch.zeros(2, 2, 2, dtype=torch.long), r"shape \[2, 2, 2\]"),
        (torch.zeros(3), "Token ids are integers, but the tensor given is of torch.float32"),
        (torch.tensor([1, 10**6]), r"Token id 1000000 \(sequence 0, position 1\) is outside the"),
        (torch.tensor([[1, -1]]), r"Token id -1 \(sequence 0, position 1\) is outside the"),
        (torch.ones(100_000, dtype=torch.long), "is 100000 tokens long .* context of .* is"),
    ],
    ids=str,
)
def test_a_prompt_that_cannot_be_fed_says_why(model, prompt, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        tokenise(model, prompt)


def test_a_bos_cannot_be_asked_for_with_ids(model) -> None:
    with pytest.raises(PromptError, match="A tensor of ids is used as given"):
        tokenise(model, torch.tensor([1, 2]), prepend_bos=True)


@pytest.mark.parametrize("name", TOYS)
def test_random_stimulus_is_a_bos_and_distinct_usable_ids_twice(name: str) -> None:
    model = loaded(name)
    batch = repeated_random(model, seed=3)
    assert batch.ids.shape == (32, 129)
    assert batch.has_bos.all()
    usable = set(usable_ids(model))
    for row in batch.ids:
        once, again = row[1:65].tolist(), row[65:].tolist()
        assert once == again
        assert len(set(once)) == 64
        assert set(once) <= usable
    assert not usable & set(model.tokenizer.all_special_ids)
    assert torch.equal(batch.ids, repeated_random(model, seed=3).ids)
    assert not torch.equal(batch.ids, repeated_random(model, seed=4).ids)


def test_there_are_64_passages_of_four_kinds_each_long_enough() -> None:
    assert len(passages()) == len(set(passages())) == 64
    assert min(len(text.split()) for text in passages()) > 60


def test_natural_stimulus_is_cut_behind_a_bos(model) -> None:
    batch = natural(model)
    assert batch.ids.shape == (64, 129)
    assert (batch.lengths == 129).all()
    assert batch.has_bos.all()
