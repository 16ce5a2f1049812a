"""What a model is fed: ids in any container, padding taken away, checks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import BatchEncoding

import mi_toolkit as mi
from mi_toolkit.core.errors import PromptError
from mi_toolkit.core.predictions import token_id
from mi_toolkit.core.stimuli import natural, passages, repeated_random, usable_ids
from mi_toolkit.core.tokenizer import bos_token_id
from mi_toolkit.core.tokens import from_sequences, tokenise
from tests.models_here import TOYS, loaded
from tests.tiny_models import tiny_model

PROMPT = "The capital of France is"


@pytest.fixture
def model():
    return loaded("toy-gpt2")


def test_ids_are_used_as_given(model) -> None:
    ids = torch.tensor([5, 6, 7])
    batch = tokenise(model, ids)
    assert batch.ids.tolist() == [[5, 6, 7]]
    assert batch.has_bos.tolist() == [False]


@pytest.mark.parametrize(
    "given",
    [
        [5, 6, 7],
        (5, 6, 7),
        [[5, 6, 7]],
        np.array([5, 6, 7], dtype=np.int32),
        np.array([[5, 6, 7]], dtype=np.uint16),
        list(np.array([5, 6, 7])),
        list(torch.tensor([5, 6, 7])),
        [torch.tensor([5, 6, 7])],
        {"input_ids": [5, 6, 7]},
        {"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.ones(1, 3)},
        {"input_ids": [0, 0, 5, 6, 7, 0], "attention_mask": [0, 0, 1, 1, 1, 0]},
        [{"input_ids": [5, 6, 7], "attention_mask": [True] * 3}],
        BatchEncoding({"input_ids": [[9, 5, 6, 7]], "attention_mask": [[0, 1, 1, 1]]}),
    ],
    ids=repr,
)
def test_ids_are_taken_in_whatever_holds_them(model, given: Any) -> None:
    batch = tokenise(model, given)
    assert batch.ids.tolist() == [[5, 6, 7]]
    assert batch.bos == "none"


@pytest.mark.parametrize(
    "given",
    [
        [[5, 6, 7], [8]],
        [torch.tensor([5, 6, 7]), torch.tensor([8])],
        {"input_ids": [[5, 6, 7], [0, 0, 8]], "attention_mask": [[1, 1, 1], [0, 0, 1]]},
    ],
    ids=repr,
)
def test_sequences_of_unequal_length_are_each_their_own(model, given: Any) -> None:
    batch = tokenise(model, given)
    assert [batch.sequence(index).tolist() for index in range(2)] == [[5, 6, 7], [8]]


@pytest.mark.parametrize("name", ["toy-gpt2", "toy-pythia"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_rows_give_the_figures_of_the_texts_alone(name: str, side: str) -> None:
    """A text is another batch's row with padding around it."""
    model = loaded(name)
    rows = [[0, *range(300, 312)], [0, *range(330, 337)]]
    pads = [[0] * (len(rows[0]) - len(row)) for row in rows]
    padded, mask = [], []
    for row, pad in zip(rows, pads, strict=True):
        left, right = (pad, []) if side == "left" else ([], pad)
        padded.append([*left, *row, *right])
        mask.append([*(0 for _ in left), *(1 for _ in row), *(0 for _ in right)])
    ids, attention_mask = torch.tensor(padded), torch.tensor(mask)
    both = mi.record(model, ids, ("resid_post", 1), attention_mask=attention_mask)
    heads = mi.classify_heads(
        model, ids, behaviours=["previous_token"], attention_mask=attention_mask
    )
    scores = []
    for index, row in enumerate(rows):
        alone = torch.tensor([row])
        one = mi.record(model, alone, ("resid_post", 1))["resid_post"][0]
        assert torch.allclose(both["resid_post"][index, : len(row)], one, atol=1e-5)
        scores.append(mi.classify_heads(model, alone, behaviours=["previous_token"]).score)
        said = mi.generate(
            model, ids[index], attention_mask=attention_mask[index], max_new_tokens=2
        )
        assert said.text == mi.generate(model, alone, max_new_tokens=2).text
    assert torch.allclose(heads.score, torch.stack(scores).mean(dim=0), atol=1e-5)
    weights = {"components": "W_O", "layers": [0]}
    scored = mi.score_weights(model, ids, attention_mask=attention_mask, **weights)
    told = mi.score_weights(model, rows, **weights)
    for matrix, values in told.scores.items():
        assert torch.allclose(scored.scores[matrix], values, atol=1e-6)


@pytest.mark.parametrize(
    ("ids", "warns"),
    [
        ([[0, 0, 5, 6]], True),
        ([[5, 6, 0]], True),
        ([[0, 5, 6]], False),  # a BOS, which is the padding id of this tokenizer too
        ([[5, 0, 6]], False),
    ],
    ids=repr,
)
def test_padding_without_a_mask_is_warned_of(model, ids, warns: bool, recwarn) -> None:
    assert model.tokenizer.pad_token_id == bos_token_id(model.tokenizer) == 0
    tokenise(model, torch.tensor(ids))
    assert [str(each.message) for each in recwarn if "attention_mask=" in str(each.message)] == [
        str(each.message) for each in recwarn
    ]
    assert len(recwarn) == int(warns)


@pytest.mark.parametrize("token", [np.int64(7), torch.tensor(7), torch.tensor([7])[0], 7])
def test_a_token_is_any_whole_number(model, token: Any) -> None:
    assert token_id(model, token) == 7
    effect = mi.attribute(model, [5, 6], token, "gradient_norm")
    assert effect.target[0].token == 7
    pair = mi.attribute(model, [5, 6], torch.tensor([7, 8]), "gradient_norm")
    assert [each.token for each in pair.target] == [7, 8]


@pytest.mark.parametrize("token", [None, b"a", 0.5, torch.tensor(0.5)])
def test_what_is_no_token_is_told_so(model, token: Any) -> None:
    with pytest.raises(PromptError, match="A token is its id or its exact text"):
        token_id(model, token)


def test_a_model_without_a_tokenizer_does_all_that_needs_ids_only() -> None:
    model: Any = mi.load_model("mine", hf_model=tiny_model("llama"))
    assert model.tokenizer is None
    ids = [5, 6, 7, 5, 6, 7]
    report = mi.classify_heads(model)
    assert set(report.tokens) == {"repeated_random"}
    assert not report.applicable["positional"]
    assert report.applicable["induction"]
    assert int(report.tokens["repeated_random"].ids.max()) < 320
    assert mi.generate(model, ids, max_new_tokens=2).prompt_ids.tolist() == ids
    assert mi.trace_pipeline(model, ids, lens=False).tokens.ids.tolist() == ids
    assert mi.ablation_effect(model, ids, ["L0H1"], target=7, n_random=2).ids.tolist() == ids
    assert mi.attribute(model, ids, 7, "occlusion").tokens == tuple(map(str, ids))
    assert mi.score_weights(model, [ids], components="W_O").scores
    for text in ("hello", [{"role": "user", "content": "hello"}]):
        with pytest.raises(PromptError, match=r"mine has no tokenizer, .* tokenizer=\.\.\."):
            mi.classify_heads(model, text)
    with pytest.raises(PromptError, match="mine has no tokenizer"):
        mi.score_weights(model)


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
        ("", r"The prompt is empty: '' has no tokens"),
        (["hi", ""], r"Prompt 1 of 2 is empty"),
        (
            torch.tensor([], dtype=torch.long),
            r"at least one token; the tensor given has shape \[0\]",
        ),
        (torch.zeros(2, 2, 2, dtype=torch.long), r"shape \[2, 2, 2\]"),
        (torch.zeros(3), "Token ids are integers, but the tensor given is of torch.float32"),
        (torch.tensor([1, 10**6]), r"Token id 1000000 \(sequence 0, position 1\) is outside the"),
        (torch.tensor([[1, -1]]), r"Token id -1 \(sequence 0, position 1\) is outside the"),
        (torch.ones(100_000, dtype=torch.long), "^The prompt is 100000 tokens long .* context of "),
        (torch.ones(2, 100_000, dtype=torch.long), "^Prompt 0 is 100000 tokens long"),
        (None, "None is no prompt: give a string, several, a list of chat messages, token ids"),
        (b"hello", "bytes b'hello' is no prompt: give a string"),
        (0.5, r"float 0\.5 is no prompt: give a string"),
        (["hello", None], "None is no prompt"),
        ([0.5, 1.5], r"float 0\.5 is no prompt"),
        (np.array([0.5]), "Token ids are integers, but the array given is of float64"),
        ({"ids": [1]}, "A mapping with 'ids' is no prompt: give input_ids"),
        ([["hello", "world"]], "Prompt 0 of 1 holds 2 prompts: give a flat list"),
        ({"input_ids": [1, 2], "attention_mask": [1]}, "1 rows of 1, the ids 1 rows of 2"),
        ({"input_ids": [1, 2, 3], "attention_mask": [1, 0, 1]}, "0 with gaps between its real"),
        ({"input_ids": [1, 2], "attention_mask": [0, 0]}, "sequence 0 with no real token"),
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
