"""Ordinal tokens and their successors: the token maps of `successor`."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

from mi_toolkit.heads.token_maps import TokenMap
from mi_toolkit.vocabulary import single_token_ids

_CYCLIC = {
    "days": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "short days": "Mon Tue Wed Thu Fri Sat Sun",
    "months": "January February March April May June July August September October November "
    "December",
    "short months": "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec",
}
_OPEN = {
    "numbers": " ".join(map(str, range(1, 201))),
    "number words": "one two three four five six seven eight nine ten eleven twelve thirteen "
    "fourteen fifteen sixteen seventeen eighteen nineteen twenty",
    "ordinal words": "first second third fourth fifth sixth seventh eighth ninth tenth",
    "letters": " ".join(string.ascii_uppercase),
}
MIN_CLASS = 4
"""Tokens of a class, and pairs to it: of fewer, chance is high and a hit says little."""


def successor_maps(tokenizer: Any) -> list[TokenMap]:
    """Every ordinal class of which the tokenizer has enough as single tokens, and its successors.

    Words are taken as they stand within a sentence, with a space in front; where most of a class
    are no single token so, without. A pair needs both of its words; December and Sunday have
    successors, `Z` and `200` have none.
    """
    if tokenizer is None:
        return []
    found = []
    for classes, is_cyclic in ((_CYCLIC, True), (_OPEN, False)):
        for name, listed in classes.items():
            words = listed.split()
            ids = max(
                (single_token_ids(tokenizer, words, spaced=spaced) for spaced in (True, False)),
                key=len,
            )
            following = words[1:] + (words[:1] if is_cyclic else [])
            pairs = _pairs(words, following, ids)
            candidates = tuple(dict.fromkeys(ids.values()))
            if min(len(pairs), len(candidates)) >= MIN_CLASS:
                found.append(TokenMap(name=name, candidates=candidates, pairs=pairs))
    return found


def _pairs(
    words: Sequence[str], following: Sequence[str], ids: dict[str, int]
) -> tuple[tuple[int, int], ...]:
    # An open class's last word has nothing that follows.
    together = zip(words, following, strict=False)
    return tuple((ids[a], ids[b]) for a, b in together if a in ids and b in ids)
