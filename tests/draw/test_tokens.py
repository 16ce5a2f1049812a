from __future__ import annotations

from typing import Any

import pytest

from mi_toolkit.core.tokenizer import token_texts
from mi_toolkit.draw.primitives import visible
from tests.tiny_models import tiny_tokenizer


class SentencePieceTokenizer:
    """As Llama's: decoding one token alone drops its leading space, bytes are pieces."""

    def __init__(self, *pieces: str) -> None:
        self.pieces = pieces

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str | None]:
        return [self.pieces[i] if i < len(self.pieces) else None for i in ids]

    def decode(self, ids: list[int], **options: Any) -> str:
        piece = self.pieces[ids[0]]
        return "\N{REPLACEMENT CHARACTER}" if piece.startswith("<0x") else piece.lstrip("▁")


@pytest.mark.parametrize("text", [" hello world", "of France\n is\tParis", "  two"])
def test_texts_put_together_are_the_prompt(text: str) -> None:
    tokenizer = tiny_tokenizer()
    assert "".join(token_texts(tokenizer, tokenizer.encode(text))) == text


def test_a_leading_space_is_a_space_and_no_sign_of_the_tokenizer() -> None:
    tokenizer = tiny_tokenizer()
    assert token_texts(tokenizer, tokenizer.encode("the capital of")) == ("the", " capital", " of")


def test_parts_of_a_character_are_given_by_their_bytes() -> None:
    tokenizer = tiny_tokenizer()
    assert token_texts(tokenizer, tokenizer.encode("中")) == ("<0xE4>", "<0xB8>", "<0xAD>")


def test_special_tokens_keep_their_names() -> None:
    assert token_texts(tiny_tokenizer(), [0]) == ("<|endoftext|>",)


def test_sentencepiece_gives_its_leading_space_and_its_bytes() -> None:
    tokenizer = SentencePieceTokenizer("▁the", "re", "<0xE2>")
    assert token_texts(tokenizer, [0, 1, 2]) == (" the", "re", "<0xE2>")


def test_an_id_without_a_word_is_shown_as_its_number() -> None:
    assert token_texts(SentencePieceTokenizer("a"), [0, 7]) == ("a", "<7>")
    assert token_texts(None, [5, 6]) == ("5", "6")


def test_nothing_in_a_label_is_invisible() -> None:
    assert visible(" a b") == "·a·b"
    assert visible("\n\t\u200b\u202e") == r"\n\t\u200b\u202e"
    assert visible("x" * 30) == "x" * 17 + "…"
