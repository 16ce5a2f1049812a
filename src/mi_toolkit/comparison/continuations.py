"""What a model finds most probable after each token of a text, as text, by character position."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from mi_toolkit.comparison.alignment import END_OF_TEXT, boundaries
from mi_toolkit.errors import PromptError
from mi_toolkit.hooked_model import HookedModel, evaluating
from mi_toolkit.hooked_pass import check_finite_pass
from mi_toolkit.prompts.tokens import TokenBatch

LOGITS_BUDGET = 128 * 2**20

Continuations = Mapping[int, str | None]
"""By the character position of each boundary of one text; None for a token without text of its
own, such as part of a character."""


def continuations(
    model: HookedModel, texts: Sequence[str], batch: TokenBatch
) -> tuple[Continuations, ...]:
    """The text of the most probable next token at each boundary of each text.

    Args:
        model: the model.
        texts: what it reads.
        batch: the tokens of the texts, as far as they are read, with or without a BOS in front.

    Raises:
        PromptError: the tokenizer does not tell which characters a token stands for.
    """
    text_of = _decoder(model.tokenizer)
    found = []
    for text, ids, following in zip(
        texts, _sequences(batch), top_tokens(model, batch), strict=True
    ):
        spans, n_before = _spans(model, text, ids)
        at = boundaries(spans)
        found.append(
            {
                position: text_of(int(ids[n_before + index]), int(following[n_before + index]))
                for position, index in at.items()
            }
        )
    return tuple(found)


def top_tokens(model: HookedModel, batch: TokenBatch) -> list[Int[Tensor, " position"]]:
    """The most probable next token after each token of each sequence."""
    n_tokens, vocabulary = batch.ids.shape[1], int(model.cfg.d_vocab)
    size = max(1, LOGITS_BUDGET // (n_tokens * vocabulary * torch.float32.itemsize))
    found: list[Tensor] = []
    for start in range(0, len(batch), size):
        part = batch.part(start, min(start + size, len(batch)))
        ids = part.ids.to(model.cfg.device)
        with evaluating(model), torch.no_grad():
            logits = model(ids, return_type="logits", attention_mask=torch.ones_like(ids))
            check_finite_pass(model, ids, logits)
        tops = logits.argmax(dim=-1).cpu()
        found += [tops[row, : int(n)] for row, n in enumerate(part.lengths)]
    return found


def _sequences(batch: TokenBatch) -> list[Tensor]:
    return [batch.sequence(index) for index in range(len(batch))]


def _spans(model: HookedModel, text: str, ids: Tensor) -> tuple[list[tuple[int, int]], int]:
    """The characters of each token that was read, and how many tokens stand before the text."""
    tokenizer = model.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise PromptError(
            f"The tokenizer of {model.cfg.model_name} does not tell which characters a token "
            "stands for, so its predictions cannot be aligned with another model's. A fast "
            "tokenizer (tokenizer.json) does."
        )
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    n_before = next(n for n in (0, 1) if _begins(encoded["input_ids"], ids[n:].tolist()))
    return encoded["offset_mapping"][: len(ids) - n_before], n_before


def _begins(whole: Sequence[int], part: Sequence[int]) -> bool:
    return list(whole[: len(part)]) == list(part)


def _decoder(tokenizer: Any) -> Callable[[int, int], str | None]:
    """From a token and the one before it to its text: some tokenizers drop a leading space."""
    special = set(tokenizer.all_special_ids)

    @cache
    def text_of(before: int, token: int) -> str | None:
        if token in special:
            return END_OF_TEXT
        start = tokenizer.decode([before], clean_up_tokenization_spaces=False)
        both = tokenizer.decode([before, token], clean_up_tokenization_spaces=False)
        text = both[len(start) :] if both.startswith(start) else ""
        return None if not text or "\N{REPLACEMENT CHARACTER}" in text else text

    return text_of
