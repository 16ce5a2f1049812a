"""Texts to measure a loss on: a bundled set, and how any set is split into two.

The bundled passages were written for this project: facts, dialogue, lists and code, 32 of each.
None of them is in the natural stimulus.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib import resources
from itertools import chain

import torch

from mi_toolkit.errors import PromptError
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.prompts.tokens import (
    Prompt,
    TokenBatch,
    bos_token_id,
    from_sequences,
    tokenise,
)

MAX_TOKENS = 128


@cache
def evaluation_passages() -> tuple[str, ...]:
    """The 128 bundled passages, kinds in turn, so that any first few hold some of each.

    >>> len(evaluation_passages())
    128
    """
    lines = resources.files("mi_toolkit.prompts").joinpath("evaluation.jsonl").read_text("utf-8")
    kinds: dict[str, list[str]] = {}
    for passage in map(json.loads, lines.splitlines()):
        kinds.setdefault(passage["kind"], []).append(passage["text"])
    return tuple(chain.from_iterable(zip(*kinds.values(), strict=True)))


def halves(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Texts to score on and texts to test on, four by four in turn: the same split always.

    >>> halves([str(number) for number in range(10)])
    (['0', '1', '2', '3', '8', '9'], ['4', '5', '6', '7'])
    """
    turns = [texts[start : start + 4] for start in range(0, len(texts), 4)]
    if len(turns) == 1:  # too few to take four at a time
        return list(texts[::2]), list(texts[1::2])
    return list(chain.from_iterable(turns[::2])), list(chain.from_iterable(turns[1::2]))


def text_digest(texts: Sequence[str]) -> str:
    """SHA-256 over the texts, in hexadecimal."""
    sha = hashlib.sha256()
    for text in texts:
        encoded = text.encode()
        sha.update(f"{len(encoded)}:".encode() + encoded)
    return sha.hexdigest()


def loss_batch(
    model: HookedModel,
    texts: Prompt | TokenBatch | None,
    *,
    max_length: int | None = None,
    limit: int | None = None,
) -> TokenBatch:
    """Texts to take a loss on, each cut to `max_length` tokens, BOS included.

    Args:
        model: whose tokenizer and context count.
        texts: texts, ids, or a batch of them; None for the scoring half of the bundled passages.
        max_length: tokens of a text; None for 128, or the context where that is shorter. Ids are
            cut only if it is given.
        limit: only the first so many texts.

    Raises:
        PromptError: no text, or one with a single token, which predicts nothing.
    """
    if limit is not None and limit < 1:
        raise PromptError(f"A limit of {limit} texts leaves none to measure a loss on.")
    room = min(max_length or MAX_TOKENS, int(model.cfg.n_ctx))
    if texts is None:
        texts = halves(evaluation_passages())[0]
    if isinstance(texts, TokenBatch | torch.Tensor):
        batch = texts if isinstance(texts, TokenBatch) else tokenise(model, texts)
        rows = [batch.sequence(index).tolist()[:max_length] for index in range(len(batch))]
        bos_id = batch.bos_id
    else:
        listed = [texts] if isinstance(texts, str) else list(texts)
        if not listed:
            raise PromptError("There is no text to measure a loss on: the list is empty.")
        rows, bos_id = _encoded(model, listed[:limit], room)
    for index, ids in enumerate(rows[:limit]):
        if len(ids) < 2:
            raise PromptError(
                f"Text {index} has one token, so no token of it is predicted from another: leave "
                "it out, or give longer texts."
            )
    return from_sequences(rows[:limit], bos_id)


def _encoded(model: HookedModel, texts: list[str], room: int) -> tuple[list[list[int]], int | None]:
    if model.tokenizer is None:
        raise PromptError(
            f"{model.cfg.model_name} has no tokenizer, so it cannot read text. Give token ids, or "
            "load it with load_model(..., tokenizer=...)."
        )
    bos_id = bos_token_id(model.tokenizer)
    head = [] if bos_id is None else [bos_id]
    rows = []
    for index, text in enumerate(texts):
        ids = model.tokenizer.encode(text, add_special_tokens=False)
        if not ids:
            raise PromptError(f"Text {index} of {len(texts)} is empty: {text!r} has no tokens.")
        rows.append([*head, *ids][:room])
    return rows, bos_id
