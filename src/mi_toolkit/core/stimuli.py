"""Texts that the library brings: standard stimuli, IOI, needles in a haystack, held-out texts.

The standard stimuli, random ids repeated and natural passages, and the table of all.

`repeated_random` shows what a head does where nothing but position and earlier copies can guide
it; `natural` shows what it does on text. They disagree strongly for some behaviours (on GPT-2 the
rank correlation is 0.19 for induction and 0.09 for duplicate tokens), so every figure says which.

Prompts of indirect object identification, and the positions that play a part in them.

"Then, Mary and John went to the store. John gave a drink to Mary": the last name is the answer; it
is the indirect object, first named at IO. John is the subject, first S1, then S2. END is the token
before the answer, which is predicted there, so that nothing at END has seen it. Half of the prompts
have the IO's name first (ABBA), half the subject's (BABA), so that no head can find the IO by its
place. After Wang et al. 2022, "Interpretability in the Wild" (arXiv 2211.00593).

A needle in a haystack: a fact hidden in unrelated text, asked for and copied out at its end.

"… The locksmith told Mary that the secret words are river lamp cheese violin. … What are the secret
words? They are river lamp cheese violin". What is copied is read, not generated: every model gets
the same text, whether it would have found the words or not. After Wu et al. 2024, "Retrieval Head
Mechanistically Explains Long-Context Factuality" (arXiv 2404.15574).

Texts to measure a loss on: two bundled sets, and how any set is split into two. The bundled
passages were written for this project: facts, dialogue, lists and code, 32 of each. None of them is
in the natural stimulus. The bundled models know no such text; theirs are of the templates that they
were trained on, in documents that they have not seen.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import resources
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from mi_toolkit.core.errors import PromptError
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.tokenizer import bos_token_id, standard_beginning, text_beginning
from mi_toolkit.core.tokens import (
    Prompt,
    TokenBatch,
    check_fits,
    from_sequences,
    rows_of,
    with_beginning,
)
from mi_toolkit.core.vocabulary import encoded, require_tokenizer, single_token_ids


@cache
def passages() -> tuple[str, ...]:
    """The bundled natural passages: facts, dialogue, lists and code, written for this project."""
    lines = resources.files("mi_toolkit.core").joinpath("natural.jsonl").read_text("utf-8")
    return tuple(json.loads(line)["text"] for line in lines.splitlines())


IOI_PROMPTS = 64
MIN_NAMES = 4

NAMES = (
    "Aaron Adam Alan Alex Alice Amy Andrew Anna Anne Anthony Arthur Ben Bob Brian Carl Carol "
    "Charles Chris Christine Claire Dan Daniel David Diana Ed Elizabeth Emily Emma Eric Eve Fiona "
    "Frank Fred Gary George Grace Greg Harry Helen Henry Irene Ivan Jack James Jane Jason "
    "Jennifer Jessica Jim Joe John Josh Julia Karen Kate Kelly Kevin Kim Laura Leo Linda Lisa "
    "Louis Lucy Maria Mark Martin Mary Matt Max Michael Michelle Mike Nick Nora Oliver Olivia "
    "Oscar Patrick Paul Peter Philip Rachel Rebecca Richard Robert Roger Rosa Ryan Sam Sara Sarah "
    "Scott Simon Sophie Stephen Steve Susan Thomas Tim Tina Tom Tony Victor Wendy William "
).split()

TEMPLATES = (
    "Then, {first} and {second} went to the {place}. {s} gave a {gift} to",
    "When {first} and {second} came home from the {place}, {s} showed the {gift} to",
    "After {first} and {second} had left the {place}, {s} sent a {gift} to",
    "The friends {first} and {second} met at the {place}, where {s} offered a {gift} to",
    "Last week {first} and {second} worked together at the {place}. Today {s} brought a {gift} to",
    "While {first} and {second} were waiting at the {place}, {s} decided to give the {gift} to",
)
PLACES = "store school garden station office park house hospital".split()
GIFTS = "drink book ring letter ball present picture basket".split()


def ioi_prompts(model: HookedModel, *, n_prompts: int = IOI_PROMPTS, seed: int = 0) -> TokenBatch:
    """Prompts of indirect object identification, each after a BOS where the tokenizer has one.

    Its roles are single positions: `io`, `s1`, `s1_next` (the token after S1), `s2`, `end`, and
    after it `answer`, the token of `io` again, so that a loss on it can be taken.

    Args:
        model: whose tokenizer is used; names are chosen that are single tokens in it.
        n_prompts: how many, half of them ABBA, half BABA.
        seed: of names, templates, places and gifts.

    Raises:
        PromptError: no tokenizer, or under 4 of the names are single tokens in it.

    Example:
        >>> import mi_toolkit as mi
        >>> prompts = mi.core.ioi_prompts(mi.load_model("toy-gpt2"), n_prompts=8)
        >>> sorted(prompts.roles)
        ['answer', 'end', 'io', 's1', 's1_next', 's2']
    """
    tokenizer = require_tokenizer(model, "IOI prompts")
    ids = single_token_ids(tokenizer, NAMES)
    if len(ids) < MIN_NAMES:
        raise PromptError(
            f"The tokenizer of {model.cfg.model_name} has {len(ids)} of {len(NAMES)} English first "
            f"names as single tokens; IOI prompts need {MIN_NAMES}, as roles are single positions."
        )
    beginning = standard_beginning(model)
    generator = torch.Generator().manual_seed(seed)
    names = list(ids)
    sequences, roles = [], []
    for index in range(n_prompts):
        io, s = (names[i] for i in torch.randperm(len(names), generator=generator)[:2])
        first, second = (io, s) if index % 2 == 0 else (s, io)
        text = _drawn(TEMPLATES, generator).format(
            first=first,
            second=second,
            s=s,
            place=_drawn(PLACES, generator),
            gift=_drawn(GIFTS, generator),
        )
        sequence = [*beginning.ids, *encoded(tokenizer, text), ids[io]]
        sequences.append(sequence)
        roles.append(_positions(sequence, io=ids[io], s=ids[s], text=text))
    batch = from_sequences(sequences, beginning.bos_id, [beginning.kind] * len(sequences))
    spans = {
        role: torch.tensor([[each[role], each[role] + 1] for each in roles]) for role in roles[0]
    }
    return replace(batch, roles=spans)


def _drawn(choices: tuple[str, ...] | list[str], generator: torch.Generator) -> str:
    return choices[int(torch.randint(len(choices), (), generator=generator))]


def _positions(sequence: list[int], *, io: int, s: int, text: str) -> dict[str, int]:
    at_io = [place for place, id_ in enumerate(sequence) if id_ == io]
    at_s = [place for place, id_ in enumerate(sequence) if id_ == s]
    if len(at_io) != 2 or len(at_s) != 2:
        raise PromptError(f"The names in {text!r} are not found as single tokens.")
    return {
        "io": at_io[0],
        "s1": at_s[0],
        "s1_next": at_s[0] + 1,
        "s2": at_s[1],
        "end": len(sequence) - 2,
        "answer": len(sequence) - 1,
    }


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


RANDOM_TOKENS = 64
RANDOM_SEQUENCES = 32
NATURAL_TOKENS = 128

_UNUSED_ROW = re.compile(
    r"madeupword\d+|<?\[?(unused|reserved|extra)[\w -]*\d+\]?>?|<\|(reserved|extra).*"
)


def usable_ids(model: HookedModel) -> list[int]:
    """The ids that stand for text: no specials, no padding, no vocabulary row without a token."""
    tokenizer, vocabulary = model.tokenizer, model.cfg.d_vocab
    if tokenizer is None:
        return list(range(vocabulary))
    special = set(tokenizer.all_special_ids)
    special |= {
        id_
        for id_, token in getattr(tokenizer, "added_tokens_decoder", {}).items()
        if token.special
    }
    return sorted(
        id_
        for token, id_ in tokenizer.get_vocab().items()
        if id_ < vocabulary and id_ not in special and not _UNUSED_ROW.fullmatch(token)
    )


def repeated_random(
    model: HookedModel,
    *,
    n_tokens: int = RANDOM_TOKENS,
    n_sequences: int = RANDOM_SEQUENCES,
    seed: int = 0,
) -> TokenBatch:
    """Sequences of a BOS and `n_tokens` distinct random ids, given twice.

    Where the tokenizer has no BOS, the document separator stands in for it: random ids have no
    convention. They are ids from the start, never text: decoding and encoding again would change
    them. Where the context is short, so are the sequences.

    Raises:
        PromptError: the vocabulary has fewer than `n_tokens` usable ids.
    """
    beginning = standard_beginning(model)
    n_tokens = min(n_tokens, (model.cfg.n_ctx - len(beginning.ids)) // 2)
    ids = torch.tensor(usable_ids(model))
    if len(ids) < n_tokens:
        raise PromptError(
            f"{model.cfg.model_name} has {len(ids)} usable token ids, too few to draw {n_tokens} "
            "distinct ones."
        )
    generator = torch.Generator().manual_seed(seed)
    drawn = [
        ids[torch.randperm(len(ids), generator=generator)[:n_tokens]] for _ in range(n_sequences)
    ]
    return with_beginning(beginning, [[*once.tolist(), *once.tolist()] for once in drawn])


def natural(
    model: HookedModel,
    *,
    n_tokens: int = NATURAL_TOKENS,
    texts: Sequence[str] | None = None,
    seed: int = 0,
    as_trained: bool = False,
    prepend_bos: bool | None = None,
) -> TokenBatch:
    """The 64 bundled passages or other texts, each cut to `n_tokens` tokens after a BOS.

    Args:
        model: whose tokenizer and context count.
        n_tokens: of each passage, next to the BOS; fewer where the context is shorter.
        texts: other texts to read; None for the passages.
        seed: changes nothing: the passages are always the same, in the same order.
        as_trained: False for the standard protocol, where the document separator stands in for a
            BOS that the tokenizer lacks; True to read them as any text is read.
        prepend_bos: with `as_trained`: as `text_beginning` takes it.

    Raises:
        PromptError: the model has no tokenizer.
    """
    tokenizer = require_tokenizer(model, "the natural passages")
    beginning = text_beginning(model, prepend_bos) if as_trained else standard_beginning(model)
    room = min(n_tokens, model.cfg.n_ctx - len(beginning.ids))
    read = passages() if texts is None else texts
    return with_beginning(beginning, [encoded(tokenizer, text)[:room] for text in read])


STANDARD_STIMULI = ("repeated_random", "natural")
"""Those of the standard protocol."""

STIMULI: Mapping[str, Callable[..., TokenBatch]] = MappingProxyType(
    {
        "repeated_random": repeated_random,
        "natural": natural,
        "ioi": ioi_prompts,
        "needle": needle_prompts,
    }
)
"""Every stimulus by its name; each takes a model and a `seed`."""


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


FILES_OF_TEXTS = (".txt", ".jsonl", ".ndjson", ".parquet")
"""Endings of files that hold texts."""


def _is_file_of_texts(texts: object) -> bool:
    """Whether it is the name of a file of texts that is there; a name has 255 signs at most."""
    may_be = isinstance(texts, str) and len(texts) < 256 and texts.endswith(FILES_OF_TEXTS)
    return may_be and Path(str(texts)).is_file()


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
    if _is_file_of_texts(texts):
        raise PromptError(
            f"{texts!r} is a file, and its name would be read as the text: give what is in it, as "
            f"in pathlib.Path({texts!r}).read_text().splitlines(), or [{texts!r}] if you mean that."
        )
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
