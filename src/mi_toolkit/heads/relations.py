"""Relations of a key to a query in text: what a head may look for, as a table of masks.

1. `read_text` reads the texts of a sequence's tokens once: words, sentences, clauses, lines,
   quotes, brackets, and what kind of token each is.
2. A `Relation` gives from that each query's keys, as lists: all of one signature, so that the
   profile of a head takes them in one product, and several are behaviours as well.

Position 0 is never a key here: it is the sink, whatever stands there. Nor is the start of a text
the start of a sentence, a clause or a line: what rests there is told by `text_start`.

The rules are for text in languages that put spaces between words; they take no model and no
dictionary, so an abbreviation's full stop ends a sentence, and a capital within one makes a name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mi_toolkit.heads.targets import KeyLists, after_copies, at_copies

NONE = -1
"""The place of what is not there."""

KINDS = ("word", "name", "inside of a word", "number", "punctuation", "blank", "other")
"""What a token may be, each of them one: the beginning of a word, of one with a capital inside a
sentence, a later part of a word, digits, signs, white space, anything else."""

_SENTENCE_END = re.compile(r"""[.!?…]["'”’)\]]*\s*$""")
_CLAUSE_END = re.compile(r"""[,;:—–]["'”’)\]]*\s*$""")
_DELIMITERS = frozenset(".,;:!?…")
_OPENING = {"(": ")", "[": "]", "{": "}"}
_CLOSING = {closing: opening for opening, closing in _OPENING.items()}
# As `core.tokenizer` writes part of a character; that module knows models, and this one none.
_BYTES = re.compile(r"(<0x[0-9A-F]{2}>)+")


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """One sequence as text: for each token, where what it belongs to begins."""

    ids: Int[Tensor, " position"]
    """The token ids."""

    has_bos: bool
    """Whether position 0 is a BOS."""

    kind: Int[Tensor, " position"]
    """What kind of token it is, a place in `KINDS`; that of a BOS is `other`."""

    word_start: Int[Tensor, " position"]
    """Where the token's word begins, -1 where it is part of none."""

    word: Int[Tensor, " position"]
    """A number for the token's word, the same for the same letters whatever their case; -1."""

    ends_word: Bool[Tensor, " position"]
    """Whether it is its word's last token."""

    sentence: Int[Tensor, " position"]
    """Where the token's sentence begins, -1 in the first one of the text."""

    clause: Int[Tensor, " position"]
    """Where its clause begins, -1 in the first one."""

    line: Int[Tensor, " position"]
    """Where its line begins, -1 in the first one."""

    quote: Int[Tensor, " position"]
    """The mark that opened the quotation that it is in, or that it closes; -1."""

    bracket: Int[Tensor, " position"]
    """The innermost bracket that is open before it; -1."""

    delimiter: Int[Tensor, " position"]
    """The last stop, comma, colon or line break before it; -1."""


def read_text(ids: Int[Tensor, " position"], has_bos: bool, texts: Sequence[str]) -> Reading:
    """Read a sequence.

    Args:
        ids: its token ids.
        has_bos: whether position 0 is a BOS.
        texts: the text of each token, its leading space included (see `token_texts`).
    """
    read = ["" if has_bos and place == 0 else text for place, text in enumerate(texts)]
    word_start, word, ends_word = _words(read)
    sentence = _starts(read, _ends_sentence)
    line = _starts(read, lambda text, _: "\n" in text)
    clause = _starts(read, lambda text, after: bool(_CLAUSE_END.search(text)) or "\n" in text
                     or _ends_sentence(text, after))  # fmt: skip
    begins = {0, int(has_bos), *sentence, *line}
    return Reading(
        ids=ids,
        has_bos=has_bos,
        kind=torch.tensor(
            [
                KINDS.index(_kind(text, start, place, place in begins))
                for place, (text, start) in enumerate(zip(read, word_start, strict=True))
            ]
        ),
        word_start=torch.tensor(word_start),
        word=torch.tensor(word),
        ends_word=torch.tensor(ends_word),
        sentence=torch.tensor(sentence),
        clause=torch.tensor(clause),
        line=torch.tensor(line),
        quote=torch.tensor(list(_open_quotes(read))),
        bracket=torch.tensor(list(_open_brackets(read))),
        delimiter=torch.tensor(list(_last_delimiters(read))),
    )


def _words(texts: Sequence[str]) -> tuple[list[int], list[int], list[bool]]:
    """Per token where its word begins, the word's number, and whether it is the word's last."""
    starts: list[int] = []
    for place, text in enumerate(texts):
        if not _is_wordy(text):
            starts.append(NONE)
        elif place and starts[-1] != NONE and _goes_on(texts[place - 1], text):
            starts.append(starts[-1])
        else:
            starts.append(place)
    letters: dict[int, str] = {}
    for start, text in zip(starts, texts, strict=True):
        letters[start] = letters.get(start, "") + text.strip().casefold()
    numbers: dict[str, int] = {}
    words = [
        NONE if start == NONE else numbers.setdefault(letters[start], len(numbers))
        for start in starts
    ]
    following = [*starts[1:], NONE]
    ends = [
        start != NONE and start != after for start, after in zip(starts, following, strict=True)
    ]
    return starts, words, ends


def _is_wordy(text: str) -> bool:
    return any(sign.isalnum() for sign in text) and not _BYTES.fullmatch(text)


def _goes_on(before: str, text: str) -> bool:
    """Whether a token goes on with the word of the one before it: no space, no sign between."""
    is_suffix = text[0] == "'" and len(text) > 1 and text[1].isalpha()
    return before[-1:].isalnum() and (text[0].isalnum() or is_suffix)


def _kind(text: str, word_start: int, place: int, begins: bool) -> str:
    stripped = text.strip()
    if not stripped:
        return "blank" if text else "other"
    if word_start == NONE:
        return "other" if _BYTES.fullmatch(text) else "punctuation"
    if any(sign.isdigit() for sign in stripped) and not any(sign.isalpha() for sign in stripped):
        return "number"
    if word_start < place:
        return "inside of a word"
    first = next(sign for sign in stripped if sign.isalnum())
    return "name" if first.isupper() and not begins else "word"


def _ends_sentence(text: str, after: str) -> bool:
    """Whether a sentence ends with a token: not where a stop stands within a number or a name."""
    is_stop = bool(_SENTENCE_END.search(text)) and (
        not after or after[0].isspace() or after[0] in '"”'
    )
    return is_stop or "\n\n" in text


def _starts(texts: Sequence[str], ends: Callable[[str, str], bool]) -> list[int]:
    """Per token where what it is in begins: after an end, at the first token that is not blank.

    -1 in the first of a text. `ends` takes a token's text and the next one's.
    """
    found, current, is_open = [], NONE, False
    for place, text in enumerate(texts):
        if is_open and text.strip() and not _only_closes(text):
            current, is_open = place, False
        found.append(current)
        after = texts[place + 1] if place + 1 < len(texts) else ""
        is_open = is_open or ends(text, after)
    return found


def _only_closes(text: str) -> bool:
    return not text[0].isspace() and not text.strip("\"'”’)]")


def _open_quotes(texts: Sequence[str]) -> Iterator[int]:
    """The mark that is open before each token; a line's end closes what was not closed."""
    opened = NONE
    for place, text in enumerate(texts):
        yield opened
        for sign in text:
            if sign == '"':
                opened = place if opened == NONE else NONE
            elif sign == "“":
                opened = place
            elif sign in "”\n":
                opened = NONE


def _open_brackets(texts: Sequence[str]) -> Iterator[int]:
    """The innermost bracket that is open before each token."""
    opened: list[tuple[str, int]] = []
    for place, text in enumerate(texts):
        yield opened[-1][1] if opened else NONE
        for sign in text:
            if sign in _OPENING:
                opened.append((sign, place))
            elif sign in _CLOSING and opened and opened[-1][0] == _CLOSING[sign]:
                opened.pop()


def _last_delimiters(texts: Sequence[str]) -> Iterator[int]:
    """The last token before each that is nothing but stops and commas, or breaks the line."""
    last = NONE
    for place, text in enumerate(texts):
        yield last
        stripped = text.strip()
        if "\n" in text or (stripped and _DELIMITERS.issuperset(stripped)):
            last = place


RelationKeys = Callable[[Reading], KeyLists]
"""From a sequence as text to each query's keys."""


@dataclass(frozen=True, kw_only=True)
class Relation:
    """What a key may be to a query."""

    meaning: str
    """The key, in a few words."""

    keys: RelationKeys
    """Each query's keys."""


def _one_key(place: Int[Tensor, " position"]) -> KeyLists:
    """One key per query; none where it is below 1 or not before the query."""
    count = (place > 0) & (place < torch.arange(len(place)))
    return KeyLists(pool=place.clamp_min(0), first=torch.arange(len(place)), count=count.long())


def begun(reading: Reading, *, what: str) -> KeyLists:
    """Where what the query is in began: a field of the reading."""
    return _one_key(getattr(reading, what))


def between(reading: Reading, *, nearest: int, farthest: int | None) -> KeyLists:
    """The keys `nearest` to `farthest` back; None for all from `nearest` on."""
    position = torch.arange(len(reading.ids))
    first = torch.ones_like(position) if farthest is None else (position - farthest).clamp_min(1)
    return KeyLists(
        pool=position, first=first.clamp_max(len(position) - 1),
        count=(position - nearest - first + 1).clamp_min(0),
    )  # fmt: skip


def at_text_start(reading: Reading) -> KeyLists:
    """The first token that is not the sink."""
    return _one_key(torch.ones_like(reading.ids))


def own_word(reading: Reading) -> KeyLists:
    """The earlier tokens of the query's own word."""
    position, start = torch.arange(len(reading.ids)), reading.word_start
    begin = torch.where(start == NONE, position, start).clamp_min(1)
    return KeyLists(
        pool=position,
        first=begin.clamp_max(len(position) - 1),
        count=(position - begin).clamp_min(0),
    )


def same_word(reading: Reading) -> KeyLists:
    """All tokens of earlier words of the same letters, for the last token of a word."""
    position = torch.arange(len(reading.ids))
    own = at_copies(reading.word, has_bos=True)  # a word's tokens are copies of one number
    within = torch.where(reading.word_start == NONE, 0, position - reading.word_start)
    count = torch.where(reading.ends_word, own.count - within, 0)
    return KeyLists(pool=own.pool, first=own.first, count=count.clamp_min(0))


def same_class(reading: Reading) -> KeyLists:
    """The earlier tokens of the query's kind."""
    kinds = reading.kind.clone()
    kinds[0] = NONE
    return at_copies(kinds, has_bos=False)


def copies(reading: Reading, *, following: bool) -> KeyLists:
    """Earlier copies of the query's token, or what followed them; position 0 left out."""
    ids = reading.ids.clone()
    ids[0] = NONE
    return after_copies(ids, has_bos=False) if following else at_copies(ids, has_bos=False)


def _distance(nearest: int, farthest: int | None) -> RelationKeys:
    return partial(between, nearest=nearest, farthest=farthest)


RELATIONS: Mapping[str, Relation] = MappingProxyType(
    {
        "self": Relation(meaning="the query itself", keys=_distance(0, 0)),
        "distance_1": Relation(meaning="the token before", keys=_distance(1, 1)),
        "distance_2": Relation(meaning="2 back", keys=_distance(2, 2)),
        "distance_3": Relation(meaning="3 back", keys=_distance(3, 3)),
        "distance_4_7": Relation(meaning="4 to 7 back", keys=_distance(4, 7)),
        "distance_8_15": Relation(meaning="8 to 15 back", keys=_distance(8, 15)),
        "distance_16_31": Relation(meaning="16 to 31 back", keys=_distance(16, 31)),
        "distance_32_on": Relation(meaning="32 back or more", keys=_distance(32, None)),
        "text_start": Relation(meaning="the text's first token after the sink", keys=at_text_start),
        "same_token": Relation(
            meaning="earlier copies of the token", keys=partial(copies, following=False)
        ),
        "after_copy": Relation(
            meaning="what followed earlier copies", keys=partial(copies, following=True)
        ),
        "same_class": Relation(meaning="earlier tokens of the same kind", keys=same_class),
        "same_word": Relation(meaning="earlier mentions of the word", keys=same_word),
        "subword": Relation(meaning="earlier parts of the same word", keys=own_word),
        "sentence_start": Relation(
            meaning="the sentence's first token", keys=partial(begun, what="sentence")
        ),
        "clause_start": Relation(
            meaning="the clause's first token", keys=partial(begun, what="clause")
        ),
        "line_start": Relation(meaning="the line's first token", keys=partial(begun, what="line")),
        "quote": Relation(
            meaning="the mark that opened the quotation", keys=partial(begun, what="quote")
        ),
        "bracket": Relation(meaning="the open bracket", keys=partial(begun, what="bracket")),
        "delimiter": Relation(
            meaning="the last stop, comma, colon or line break",
            keys=partial(begun, what="delimiter"),
        ),
    }
)
"""Every relation by its name."""


def of_text(
    ids: Int[Tensor, " position"], has_bos: bool, texts: Sequence[str], *, relation: str
) -> KeyLists:
    """The keys of one relation, as behaviours ask for them."""
    return RELATIONS[relation].keys(read_text(ids, has_bos, texts))
