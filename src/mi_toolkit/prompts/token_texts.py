"""Tokens as text: what each id stands for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

UNDECODABLE = "\N{REPLACEMENT CHARACTER}"
SENTENCEPIECE_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"

_BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")


def token_texts(tokenizer: Any, ids: Sequence[int]) -> tuple[str, ...]:
    """The text of each id, its leading space included; the id itself where there is no tokenizer.

    A token that holds a part of a character is given by its bytes, as `<0xE2><0x80>`.
    """
    if tokenizer is None:
        return tuple(str(token_id) for token_id in ids)
    pieces = tokenizer.convert_ids_to_tokens(list(ids))
    return tuple(
        _token_text(tokenizer, token_id, piece) for token_id, piece in zip(ids, pieces, strict=True)
    )


def _token_text(tokenizer: Any, token_id: int, piece: str | None) -> str:
    if piece is None:  # an embedding row that the tokenizer has no word for
        return f"<{token_id}>"
    text: str = tokenizer.decode([token_id], clean_up_tokenization_spaces=False)
    if UNDECODABLE in text:
        return _bytes_text(piece)
    if piece.startswith(SENTENCEPIECE_SPACE) and not text.startswith(" "):
        return f" {text}"
    return text or piece


def _bytes_text(piece: str) -> str:
    """A byte-level piece byte by byte; any other as it is: SentencePiece writes bytes itself."""
    table = _byte_of_sign()
    if _BYTE_PIECE.fullmatch(piece) or not all(sign in table for sign in piece):
        return piece
    return "".join(f"<0x{table[sign]:02X}>" for sign in piece)


@cache
def _byte_of_sign() -> dict[str, int]:
    """The signs that byte-level BPE writes for bytes: themselves where they print."""
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printing]
    return {chr(byte): byte for byte in printing} | {
        chr(256 + index): byte for index, byte in enumerate(others)
    }
