"""What a tokenizer is asked: its BOS, and how its tokens read.

What stands in front of a text: one policy for everything that reads text.

1. A text is read as its model was trained to read it: after what the tokenizer puts there itself,
   or after the tokenizer's own BOS where TransformerLens' convention for the architecture is to
   put one (`cfg.default_prepend_bos`), else as it is.
2. A BOS is never put in front of a text whose ids begin with it, as chat templates' do.
3. Only the standard protocol (random ids, passages, given to every model alike) has a position 0
   everywhere: the tokenizer's BOS, or its document separator as a stand-in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from mi_toolkit.core.errors import PromptError
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.vocabulary import put_in_front

DOCUMENT_SEPARATOR = "<|endoftext|>"

Bos = Literal["own", "stand-in", "none", "in the text"]
"""What a sequence begins with: the tokenizer's own BOS, put there; the document separator, put in
its place; none; or a BOS that is the first of the ids given."""


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """What is put in front of texts."""

    ids: tuple[int, ...]
    """The ids put there; none where texts are read as they are."""

    kind: Bos
    """What they are: `own`, `stand-in` or `none`."""

    bos_id: int | None
    """The id that counts as a BOS at position 0, None where the tokenizer has none."""

    def before(self, text: Sequence[int]) -> tuple[list[int], Bos]:
        """The ids of a text with what belongs in front of them, and what they begin with."""
        own = {self.bos_id, *self.ids[:1]}
        if text and text[0] in own:
            return list(text), "in the text"
        return [*self.ids, *text], self.kind


def own_bos_id(tokenizer: Any) -> int | None:
    """The id of the tokenizer's own BOS, None where it has none.

    TransformerLens writes the end-of-text or end-of-turn token into the BOS slot of a tokenizer
    without one; what the tokenizer was made with (`init_kwargs`) tells the two apart.
    """
    if tokenizer is None or tokenizer.bos_token is None or tokenizer.bos_token_id is None:
        return None
    filled_in = tokenizer.bos_token == tokenizer.eos_token
    if filled_in and tokenizer.init_kwargs.get("bos_token") is None:
        return None
    return int(tokenizer.bos_token_id)


def bos_token_id(tokenizer: Any) -> int | None:
    """The id that counts as a BOS, None where the tokenizer has none.

    Its own BOS, else `<|endoftext|>`, which separates documents (Qwen2.5).
    """
    own = own_bos_id(tokenizer)
    if own is not None or tokenizer is None:
        return own
    separator = tokenizer.get_vocab().get(DOCUMENT_SEPARATOR)
    return None if separator is None else int(separator)


def text_beginning(model: HookedModel, prepend_bos: bool | None = None) -> Beginning:
    """What a text begins with.

    Args:
        model: whose tokenizer and convention count.
        prepend_bos: None for the model's own convention, which never puts a stand-in; True for a
            BOS, or the stand-in where there is none; False for nothing.

    Raises:
        PromptError: a BOS is asked for, and the tokenizer has neither a BOS nor a separator.
    """
    tokenizer = model.tokenizer
    if prepend_bos:
        found = standard_beginning(model)
        if not found.ids:
            raise PromptError(
                f"The tokenizer of {model.cfg.model_name} has no BOS token to prepend; leave "
                "prepend_bos out, or pass False."
            )
        return found
    bos_id = bos_token_id(tokenizer)
    by_convention = getattr(model.cfg, "default_prepend_bos", True)
    if prepend_bos is False or tokenizer is None or not by_convention:
        return Beginning(ids=(), kind="none", bos_id=bos_id)
    own = own_bos_id(tokenizer)
    ids = put_in_front(tokenizer) or (() if own is None else (own,))
    return Beginning(ids=ids, kind="own" if ids else "none", bos_id=bos_id)


def standard_beginning(model: HookedModel) -> Beginning:
    """Position 0 of the standard protocol: the BOS, or the document separator as a stand-in."""
    bos_id = bos_token_id(model.tokenizer)
    if bos_id is None:
        return Beginning(ids=(), kind="none", bos_id=None)
    own = own_bos_id(model.tokenizer) is not None
    return Beginning(ids=(bos_id,), kind="own" if own else "stand-in", bos_id=bos_id)


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


_BYTES = re.compile("(?:<0x[0-9A-F]{2}>)+")


def characters(texts: Sequence[str]) -> list[tuple[str, range]]:
    """Tokens with their text; those that hold parts of one character together, with that one.

    >>> characters(["a", "<0xF0><0x9F>", "<0x99><0x82>", "<0x80>"])
    [('a', range(0, 1)), ('🙂', range(1, 3)), ('<0x80>', range(3, 4))]
    """
    found: list[tuple[str, range]] = []
    start = 0
    while start < len(texts):
        text, stop, held = texts[start], start + 1, b""
        for end in range(start, len(texts)):
            if not _BYTES.fullmatch(texts[end]):
                break
            held += bytes.fromhex(texts[end].replace("<0x", "").replace(">", ""))
            try:
                text, stop = held.decode(), end + 1
            except UnicodeDecodeError:
                continue
            break
        found.append((text, range(start, stop)))
        start = stop
    return found


@cache
def _byte_of_sign() -> dict[str, int]:
    """The signs that byte-level BPE writes for bytes: themselves where they print."""
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printing]
    return {chr(byte): byte for byte in printing} | {
        chr(256 + index): byte for index, byte in enumerate(others)
    }
