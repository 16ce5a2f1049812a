"""Token sequences of one exact length, from passages that are joined where one is too short."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mi_toolkit.errors import PromptError
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.prompts.bos import Beginning
from mi_toolkit.prompts.tokens import TokenBatch, behind
from mi_toolkit.vocabulary import require_tokenizer

BETWEEN_PASSAGES = "\n\n"


def of_length(
    model: HookedModel,
    texts: Sequence[str],
    *,
    n_tokens: int,
    n_sequences: int,
    beginning: Beginning,
) -> TokenBatch:
    """At most `n_sequences` sequences of exactly `n_tokens` tokens, behind `beginning`.

    Each begins with a text that no other sequence holds; texts that follow are joined to it, with
    an empty line between, until there are tokens enough, and the rest is cut off. So long sequences
    are few: nothing is read twice.

    Raises:
        PromptError: the model has no tokenizer, or all texts together have fewer tokens.
    """
    tokenizer = require_tokenizer(model)
    found = []
    for ids in _joined(model, texts, n_tokens):
        found.append(ids[:n_tokens])
        if len(found) == n_sequences:
            break
    if not found:
        total = len(tokenizer.encode(BETWEEN_PASSAGES.join(texts), add_special_tokens=False))
        raise PromptError(
            f"The text has {total} tokens for {model.cfg.model_name}, too few for a sequence of "
            f"{n_tokens}. Leave that length out, or give more text."
        )
    return behind(beginning, found)


def _joined(model: HookedModel, texts: Sequence[str], n_tokens: int) -> Iterator[list[int]]:
    held: list[str] = []
    for text in texts:
        held.append(text)
        ids = model.tokenizer.encode(BETWEEN_PASSAGES.join(held), add_special_tokens=False)
        if len(ids) >= n_tokens:
            yield ids
            held = []
