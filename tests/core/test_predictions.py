"""Which token is next, how probable, at which rank."""

from __future__ import annotations

import math

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mi_toolkit.core.errors import PromptError
from mi_toolkit.core.predictions import (
    kl_divergence,
    most_probable,
    predictions,
    token_id,
    token_ranks,
    top_predictions,
)
from mi_toolkit.models.load import load_model
from tests.models_here import TOYS, loaded


@pytest.mark.parametrize("name", TOYS)
def test_a_token_is_found_by_its_exact_text(name: str) -> None:
    model = loaded(name)
    vocabulary = model.tokenizer.get_vocab()
    with_space = token_id(model, " the")
    assert with_space == vocabulary["Ġthe"]
    assert token_id(model, with_space) == with_space
    assert token_id(model, "e") == vocabulary["e"]


def test_of_equal_logits_the_smaller_ids_come_first_wherever_the_list_ends() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(0, 6, (20, 3, 40), generator=generator).float()
    in_order = logits.sort(dim=-1, descending=True, stable=True).indices
    for k in (1, 2, 7, 39, 40):
        assert torch.equal(most_probable(logits, k), in_order[..., :k])
        assert torch.equal(most_probable(logits[0, 0], k), in_order[0, 0, :k])


def test_a_text_of_several_tokens_is_refused_and_shown_in_its_pieces() -> None:
    with pytest.raises(
        PromptError, match=r"' the the' is not one token of toy-gpt2, but 2: ' the'"
    ):
        token_id(loaded("toy-gpt2"), " the the")
    with pytest.raises(PromptError, match="but 0: nothing"):
        token_id(loaded("toy-gpt2"), "")


def test_the_variant_with_or_without_a_space_is_offered() -> None:
    model = loaded("toy-gpt2")
    texts = [text.replace("Ġ", " ") for text in model.tokenizer.get_vocab() if text[0] == "Ġ"]
    bare = [text.strip() for text in texts if len(model.tokenizer.encode(text.strip())) > 1]
    assert bare, "every word is one token without its space too"
    with pytest.raises(PromptError, match=f"' {bare[0]}' is one"):
        token_id(model, bare[0])


def test_an_id_outside_the_vocabulary_is_refused() -> None:
    model = loaded("toy-gpt2")
    with pytest.raises(
        PromptError, match=f"Token id -1 is outside .* 0 to {model.cfg.d_vocab - 1}"
    ):
        token_id(model, -1)
    with pytest.raises(PromptError, match="outside the vocabulary"):
        token_id(model, model.cfg.d_vocab)


def test_sentencepiece_puts_a_space_before_what_it_reads_but_not_into_what_is_asked() -> None:
    vocabulary = {"<unk>": 0, "▁Paris": 1, "Paris": 2}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    model = load_model("toy-gpt2")
    model.tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    assert model.tokenizer.encode("Paris", add_special_tokens=False) == [1]  # ▁Paris
    assert token_id(model, " Paris") == 1
    assert token_id(model, "Paris") == 2


def test_ranks_by_hand() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    assert token_ranks(logits, torch.tensor([2, 3])).tolist() == [2, 1]
    assert token_ranks(logits, torch.tensor([1, 0])).tolist() == [4, 1]


def test_divergence_of_a_prediction_from_itself_is_exactly_0() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    assert kl_divergence(logits, logits).tolist() == [0.0] * 3
    assert kl_divergence(logits, logits + 5).abs().max() < 1e-6
    # Nor is one that hardly differs below 0 by rounding.
    many = torch.randn(200, 1000, generator=torch.Generator().manual_seed(1))
    nearly = many + 1e-6 * torch.randn(200, 1000, generator=torch.Generator().manual_seed(2))
    assert (kl_divergence(many, nearly) > 0).all()


def test_divergence_by_hand_and_in_its_direction() -> None:
    clean, changed = torch.tensor([0.9, 0.1]), torch.tensor([0.5, 0.5])
    by_hand = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert kl_divergence(clean.log(), changed.log()).item() == pytest.approx(by_hand, rel=1e-5)
    assert kl_divergence(changed.log(), clean.log()).item() != pytest.approx(by_hand, rel=0.1)


def test_predictions_hold_what_softmax_says() -> None:
    model = loaded("toy-gpt2")
    logits = torch.randn(int(model.cfg.d_vocab), generator=torch.Generator().manual_seed(1))
    shares = logits.double().softmax(dim=0)
    best, *others = top_predictions(model.tokenizer, logits, 5)
    assert best.token == int(logits.argmax())
    assert best.probability == pytest.approx(float(shares.max()), rel=1e-5)
    assert [each.rank for each in (best, *others)] == [1, 2, 3, 4, 5]
    (same,) = predictions(model.tokenizer, logits, torch.tensor([others[0].token]))
    assert same == others[0]
    assert str(best) == f"{best.text!r} {best.probability:.1%}"


def test_of_a_tie_the_smaller_ids_come_first() -> None:
    tied = top_predictions(None, torch.zeros(9), 3)
    assert [each.token for each in tied] == [0, 1, 2]
    assert [each.rank for each in tied] == [1, 1, 1]


@pytest.mark.parametrize("k", [0, 10])
def test_no_more_tokens_than_there_are(k: int) -> None:
    with pytest.raises(PromptError, match=f"k={k}: between 1 and 9"):
        top_predictions(None, torch.zeros(9), k)
