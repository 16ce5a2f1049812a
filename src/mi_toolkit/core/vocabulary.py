"""What a tokenizer makes of words: single tokens, and the ids around a text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mi_toolkit.core.errors import PromptError

_BEFORE = "and"


def require_tokenizer(model: Any, what: str = "text") -> Any:
    """The tokenizer of a hooked model.

    Args:
        model: the model.
        what: what is to be read with it.

    Raises:
        PromptError: it has none.
    """
    if model.tokenizer is None:
        raise PromptError(
            f"{model.cfg.model_name} has no tokenizer, so it cannot read {what}. Give token ids, "
            "load it with load_model(..., tokenizer=...), or put a tokenizer into its folder with "
            "`tokenizer.save_pretrained`."
        )
    return model.tokenizer


def single_token_ids(
    tokenizer: Any, words: Iterable[str], *, spaced: bool = True
) -> dict[str, int]:
    """The id of each word that is a single token, by word; the others are left out.

    Args:
        tokenizer: the model's.
        words: what to look up; the order is kept.
        spaced: as the word stands after another, with a space in front; else as it stands alone.
    """
    found = {}
    # Encoded after another word: tokenizers treat a text's beginning in ways of their own.
    before = encoded(tokenizer, _BEFORE) if spaced else []
    for word in words:
        ids = encoded(tokenizer, f"{_BEFORE} {word}" if spaced else word)
        if len(ids) == len(before) + 1 and ids[:-1] == before:
            found[word] = ids[-1]
    return found


def encoded(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text without specials around it."""
    return list(tokenizer.encode(text, add_special_tokens=False))


def put_in_front(tokenizer: Any) -> tuple[int, ...]:
    """The ids that the tokenizer itself puts in front of a text: mostly its BOS, or nothing."""
    text = encoded(tokenizer, "a")
    whole = list(tokenizer.encode("a"))
    starts = range(len(whole) - len(text) + 1)
    start = next((s for s in starts if whole[s : s + len(text)] == text), 0)
    return tuple(whole[:start])
