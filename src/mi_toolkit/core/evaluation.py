"""Texts to measure a loss on: two bundled sets, and how any set is split into two.

The bundled passages were written for this project: facts, dialogue, lists and code, 32 of each.
None of them is in the natural stimulus. The bundled models know no such text; theirs are of the
templates that they were trained on, in documents that they have not seen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib import resources
from itertools import chain
from typing import Any

from mi_toolkit.core.errors import PromptError
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.tokenizer import bos_token_id
from mi_toolkit.core.tokens import Prompt, TokenBatch, check_fits, from_sequences, rows_of

MAX_TOKENS = 128


def evaluation_passages(model: HookedModel | None = None) -> tuple[str, ...]:
    """128 bundled passages, kinds in turn, so that any first few hold some of each.

    Of a bundled model (`toy-gpt2`, …) those that it can predict; of any other, and without one,
    English.

    >>> len(evaluation_passages())
    128
    """
    bundled = resources.files("mi_toolkit") / "models" / "bundled"
    name = "" if model is None else str(model.cfg.model_name)
    if name and (bundled / name / "card.json").is_file():
        return tuple((bundled / "passages.txt").read_text("utf-8").splitlines())
    return _english()


@cache
def _english() -> tuple[str, ...]:
    lines = resources.files("mi_toolkit.core").joinpath("evaluation.jsonl").read_text("utf-8")
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
    texts: Prompt | None,
    *,
    max_length: int | None = None,
    limit: int | None = None,
    attention_mask: Any = None,
) -> TokenBatch:
    """Texts to take a loss on, each cut to `max_length` tokens, BOS included.

    Args:
        model: whose tokenizer and context count.
        texts: texts, ids, or a batch of them; None for the scoring half of the bundled passages
            for this model.
        max_length: tokens of a text; None for 128, or the context where that is shorter. Ids are
            cut only if it is given.
        limit: only the first so many texts.
        attention_mask: of ids with padding, as `tokenise` takes it.

    Raises:
        PromptError: no text, or one with a single token, which predicts nothing.
    """
    if limit is not None and limit < 1:
        raise PromptError(f"A limit of {limit} texts leaves none to measure a loss on.")
    room = min(max_length or MAX_TOKENS, int(model.cfg.n_ctx))
    if texts is None:
        texts = halves(evaluation_passages(model))[0]
    if isinstance(texts, TokenBatch):
        rows = [texts.sequence(index).tolist()[:max_length] for index in range(len(texts))][:limit]
        beginnings: Sequence[str] = texts.beginnings[:limit]
    else:
        read = rows_of(model, texts, attention_mask=attention_mask, limit=limit)
        rows = [row.ids[: room if row.from_text else max_length] for row in read]
        beginnings = [row.beginning for row in read]
    for index, ids in enumerate(rows):
        if len(ids) < 2:
            raise PromptError(
                f"Text {index} has one token, so no token of it is predicted from another: leave "
                "it out, or give longer texts."
            )
    batch = from_sequences(rows, bos_token_id(model.tokenizer), beginnings)
    check_fits(model, batch)
    return batch
