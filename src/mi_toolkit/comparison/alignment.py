"""Aligning two tokenizers by characters: what one predicts beside what the other predicts. Pure.

1. Each token of a text has a span of characters. A *boundary* is a character position where a token
   ends and no token crosses it (a character of several bytes may be several tokens).
2. At a boundary a model has read a prefix of the text; its *continuation* is the text of the token
   that it finds most probable next.
3. Two continuations *agree* where one is a prefix of the other: ` the` and ` them` do, since the
   shorter one does not say how it goes on; ` the` and `the` do not. A model that ends the text
   (predicts a special token) continues with the empty text, which agrees with itself alone.
4. Chance is the agreement of the same continuations paired at random: with the shares p and q of
   each continuation in either model, the sum of `p(a) q(b)` over all pairs that agree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

END_OF_TEXT = ""
"""The continuation of a model that ends the text."""


def boundaries(spans: Sequence[tuple[int, int]]) -> dict[int, int]:
    """The character position after each token that ends at a boundary, to the token's index.

    >>> boundaries([(0, 3), (3, 4), (3, 4), (4, 6)])  # the second character takes two tokens
    {3: 0, 4: 2, 6: 3}
    """
    ends: dict[int, int] = {}
    for index, (_, end) in enumerate(spans):
        is_open = index + 1 < len(spans) and spans[index + 1][0] < end
        if end > 0 and not is_open:
            ends[end] = index
    return ends


def agrees(one: str, other: str) -> bool:
    """Whether one continuation is a prefix of the other; the empty one agrees with itself alone.

    >>> agrees(" the", " them"), agrees(" the", "the"), agrees("", " the"), agrees("", "")
    (True, False, False, True)
    """
    if not one or not other:
        return one == other
    return one.startswith(other) or other.startswith(one)


def shared_positions(
    one: Mapping[int, str | None], other: Mapping[int, str | None]
) -> list[tuple[str, str]]:
    """Both continuations at every boundary that both have, in the order of the text.

    None is a continuation without text, such as half a character: its position is left out.
    """
    return [
        (here, there)
        for position in sorted(one.keys() & other.keys())
        if (here := one[position]) is not None and (there := other[position]) is not None
    ]


def chance_agreement(pairs: Sequence[tuple[str, str]]) -> float:
    """The agreement of the same continuations paired at random; NaN without any.

    >>> chance_agreement([("a", "a"), ("b", "b")])
    0.5
    """
    if not pairs:
        return float("nan")
    ones, others = (Counter(side) for side in zip(*pairs, strict=True))
    # A pair agrees where the one is a prefix of the other: look every prefix up, once if equal.
    agreeing = sum(n * others[same] for same, n in ones.items())
    for longer, shorter in ((ones, others), (others, ones)):
        agreeing += sum(
            n * shorter[text[:size]] for text, n in longer.items() for size in range(1, len(text))
        )
    return agreeing / len(pairs) ** 2


def continues(text: str, position: int, continuation: str | None) -> bool:
    """Whether a continuation is what the text goes on with at `position`.

    >>> continues("the cat", 3, " cat"), continues("the cat", 3, " dog"), continues("the", 3, "")
    (True, False, False)
    """
    return bool(continuation) and agrees(text[position:], continuation or "")
