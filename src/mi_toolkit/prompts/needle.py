"""A needle in a haystack: a fact hidden in unrelated text, asked for and copied out at its end.

"… The locksmith told Mary that the secret words are river lamp cheese violin. … What are the secret
words? They are river lamp cheese violin". What is copied is read, not generated: every model gets
the same text, whether it would have found the words or not. After Wu et al. 2024, "Retrieval Head
Mechanistically Explains Long-Context Factuality" (arXiv 2404.15574).
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import torch

from mi_toolkit.errors import PromptError
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.prompts.bos import standard_beginning
from mi_toolkit.prompts.passages import passages
from mi_toolkit.prompts.tokens import TokenBatch, from_sequences
from mi_toolkit.vocabulary import encoded, require_tokenizer

NEEDLE_SEQUENCES = 16
NEEDLE_TOKENS = 512
NEEDLE_WORDS = 4

WORDS = (
    "river lamp cheese violin window horse candle pepper bridge ladder ocean button forest mirror "
    "hammer pillow carpet desert engine feather guitar island jacket kettle lemon marble needle "
    "orange pencil rabbit saddle tunnel valley wagon basket cloud drum eagle flute glove honey "
    "insect kitten magnet napkin onion parrot quilt ribbon spoon tiger wheel"
).split()

_CLAUSE_ENDS = re.compile(r"(?<=[.!?,;:])\s+|\n\s*")
_FACT = " The secret words that open the gate are"
_QUESTION = " Question: which words does the guard want to hear? Answer: they are"


def needle_prompts(
    model: HookedModel,
    *,
    n_tokens: int = NEEDLE_TOKENS,
    n_sequences: int = NEEDLE_SEQUENCES,
    seed: int = 0,
) -> TokenBatch:
    """Natural passages with four secret words in one place, and the same words at the end.

    Its roles are spans: `needle`, the words in the haystack, and `answer`, the words at the end,
    token for token the same. Over the sequences the needle wanders evenly from the haystack's
    beginning to its end, between clauses.

    Args:
        model: whose tokenizer and context count.
        n_tokens: the length of a sequence, BOS included; shorter where the context is.
        n_sequences: how many.
        seed: of the words and the order of the passages.

    Raises:
        PromptError: no tokenizer, or no room for a haystack.
    """
    tokenizer = require_tokenizer(model, "a needle in a haystack")
    beginning = standard_beginning(model)
    n_tokens = min(n_tokens, model.cfg.n_ctx)
    generator = torch.Generator().manual_seed(seed)
    fact, question, stop = (encoded(tokenizer, text) for text in (_FACT, _QUESTION, "."))
    sequences, needles, answers = [], [], []
    for index in range(n_sequences):
        order = torch.randperm(len(WORDS), generator=generator)[:NEEDLE_WORDS].tolist()
        words = encoded(tokenizer, "".join(f" {WORDS[i]}" for i in order))
        room = n_tokens - len([*beginning.ids, *fact, *words, *stop, *question, *words])
        if room < NEEDLE_WORDS:
            raise PromptError(
                f"A needle in a haystack of {n_tokens} tokens leaves {room} for the haystack: "
                "give more tokens, or a model with a longer context."
            )
        haystack, breaks = _haystack(tokenizer, room, generator)
        wanted = index / max(1, n_sequences - 1) * room
        depth = min(breaks, key=lambda place: abs(place - wanted))
        before = [*beginning.ids, *haystack[:depth], *fact]
        until = [*before, *words, *stop, *haystack[depth:], *question]
        sequences.append([*until, *words])
        needles.append([len(before), len(before) + len(words)])
        answers.append([len(until), len(until) + len(words)])
    batch = from_sequences(sequences, beginning.bos_id, [beginning.kind] * len(sequences))
    roles = {"needle": torch.tensor(needles), "answer": torch.tensor(answers)}
    return replace(batch, roles=roles)


def _haystack(tokenizer: Any, room: int, generator: torch.Generator) -> tuple[list[int], list[int]]:
    """Passages in a drawn order up to `room` tokens, and the places between their clauses."""
    texts = passages()
    haystack: list[int] = []
    breaks = [0]
    while len(haystack) < room:
        for index in torch.randperm(len(texts), generator=generator).tolist():
            for clause in _CLAUSE_ENDS.split(texts[index]):
                haystack += encoded(tokenizer, f" {clause}")
                breaks.append(len(haystack))
            if len(haystack) >= room:
                break
    return haystack[:room], [place for place in breaks if place <= room]
