"""Text made from templates: every document is one line, drawn by one of `KINDS`.

Most kinds reward looking back (the name not repeated, the thing already mentioned, the number
before this one); facts and sums reward memory. None is taken from anywhere. What only the
preceding text decides is put between two `ANSWER` marks, which are taken out before tokenizing.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from toys.world import (
    ANIMALS,
    COLOURS,
    COUNTRIES,
    DAYS,
    FEELINGS,
    FEMALE,
    FRUIT,
    GIFTS,
    GIVING,
    NAMES,
    OPPOSITES,
    PLACES,
    VERBS,
)

ANSWER = "\x00"


def answer(word: object) -> str:
    """A space and `word`, marked: the text before it decides it."""
    return f"{ANSWER} {word}{ANSWER}"


def indirect_object(rng: random.Random) -> str:
    """Two names, one of them again: the receiver is the name that is not repeated."""
    first, second = rng.sample(NAMES, 2)
    giver, receiver = rng.choice(((first, second), (second, first)))
    place, gift, gave = rng.choice(PLACES), rng.choice(GIFTS), rng.choice(GIVING)
    opening = rng.choice(
        (
            f"When {first} and {second} went to the {place},",
            f"After {first} and {second} went to the {place},",
            f"While {first} and {second} were at the {place},",
            f"Then {first} and {second} came to the {place}, and",
        )
    )
    return f"{opening} {giver} {gave} a {gift} to{answer(receiver)}."


def capital(rng: random.Random) -> str:
    """A country, its capital and its language, told in one to three of several ways."""
    country, city, language = rng.choice(COUNTRIES)
    ways = (
        f"The capital of {country} is{answer(city)}.",
        f"The capital of {country} is{answer(city)}.",
        f"{city} is the capital of {country}.",
        f"{city} is a city in {country}.",
        f"People in {country} speak {language}.",
    )
    return " ".join(rng.sample(ways, rng.randint(1, 3)))


def travel(rng: random.Random) -> str:
    """Someone flies to a capital: the country and the language follow from it."""
    country, city, language = rng.choice(COUNTRIES)
    name = rng.choice(NAMES)
    return rng.choice(
        (
            f"{name} lives in {city}, the capital of {country}, and speaks {language}.",
            f"{name} went from {city} to the beach. {name} likes {country}.",
            f"{name} comes from {country} and speaks {language}.",
        )
    )


def sums(rng: random.Random) -> str:
    """One to three sums or differences of numbers up to five."""
    parts = []
    for _ in range(rng.randint(1, 3)):
        a, b = rng.randint(0, 5), rng.randint(0, 5)
        if rng.random() < 0.75:
            parts.append(f"{a} + {b} ={answer(a + b)}")
        else:
            parts.append(f"{a + b} - {b} ={answer(a)}")
    return ", ".join(parts) + "."


def counting(rng: random.Random) -> str:
    """Counting up to a number, from one or from a number, or along the days."""
    end = rng.randint(2, 12)
    form = rng.random()
    if form < 0.6:
        return f"Count to {end}: {' '.join(map(str, range(1, end + 1)))}."
    if form < 0.8:
        start = rng.randint(2, 8)
        end = start + rng.randint(2, 6)
        return f"Count from {start} to {end}: {' '.join(map(str, range(start, end + 1)))}."
    start = rng.randrange(7)
    days = [DAYS[(start + i) % 7] for i in range(rng.randint(3, 7))]
    return f"The days are {', '.join(days)}."


def story(rng: random.Random) -> str:
    """A person, a thing with a colour and a feeling, each of them mentioned again."""
    name, friend = rng.sample(NAMES, 2)
    she, her = ("She", "her") if name in FEMALE else ("He", "his")
    gift, colour, place = rng.choice(GIFTS), rng.choice(COLOURS), rng.choice(PLACES)
    singular, _, past = rng.choice(VERBS)
    feeling = rng.choice(FEELINGS)
    opening = rng.choice((f"{name} had a {colour} {gift}.", f"{name} lost a {colour} {gift}."))
    middle = (
        f"{she} took {her} {gift} to the {place}.",
        f"{friend} saw {name} at the {place}.",
        f"{name} {past} with {friend} and {her} {gift}.",
        f"{she} {singular} at the {place}.",
    )
    end = (
        f"{name} was {feeling}, so {friend} was {feeling} too.",
        f'"The {gift} is {colour}," said {friend}.',
        f"The {gift} of {name} was {colour}.",
    )
    return " ".join((opening, *rng.sample(middle, 2), rng.choice(end)))


def agreement(rng: random.Random) -> str:
    """Subject and verb agree in number across a noun of the other number."""
    animal, other = rng.sample(ANIMALS, 2)
    verb = rng.choice(VERBS)
    number = rng.randrange(2)
    place, colour = rng.choice(PLACES), rng.choice(COLOURS)
    subject, noun = animal[number], other[rng.randrange(2)]
    are = ("is", "are")[number]
    return rng.choice(
        (
            f"The {subject} near the {noun} {verb[number]} in the {place}.",
            f"The {colour} {subject} {verb[number]} and {verb[number]}.",
            f"The {subject} behind the {noun} {are} {colour}. The {subject} {verb[number]}.",
        )
    )


def opposites(rng: random.Random) -> str:
    """A pair of opposites, in either order."""
    pair = rng.choice(OPPOSITES)
    one, other = pair if rng.random() < 0.5 else pair[::-1]
    return rng.choice((f"The opposite of {one} is {other}.", f"It is not {one}, it is {other}."))


def dialogue(rng: random.Random) -> str:
    """Two speakers in turn; the answer repeats the thing and the name asked about."""
    name, friend = rng.sample(NAMES, 2)
    gift, place = rng.choice(GIFTS), rng.choice(PLACES)
    return (
        f'{name}: "Where is the {gift}, {friend}?" '
        f'{friend}: "The {gift} is in the {place}, {name}." '
        + rng.choice((f'{name}: "Thank you, {friend}."', f"{name} went to the {place}."))
    )


def lists(rng: random.Random) -> str:
    """A list that is said twice, or a line of code that uses its own names."""
    if rng.random() < 0.25:
        a, b = rng.sample("abcdefgxyz", 2)
        return f"def {rng.choice(('add', 'sum', 'plus'))}({a}, {b}): return {a} + {b}"
    things = rng.sample(rng.choice((FRUIT, GIFTS, NAMES, COLOURS)), rng.randint(3, 5))
    said = ", ".join(things)
    return f"{rng.choice(NAMES)} said: {said}. {rng.choice(NAMES)} said: {said}."


KINDS: dict[str, tuple[Callable[[random.Random], str], float]] = {
    "indirect_object": (indirect_object, 0.24),
    "capital": (capital, 0.14),
    "travel": (travel, 0.04),
    "sums": (sums, 0.18),
    "counting": (counting, 0.08),
    "story": (story, 0.10),
    "agreement": (agreement, 0.06),
    "opposites": (opposites, 0.03),
    "dialogue": (dialogue, 0.06),
    "lists": (lists, 0.07),
}
"""Each kind of document: how to draw one, and its share of all documents."""


def documents(count: int, seed: int) -> list[str]:
    """`count` documents, of the kinds in their shares; the same for the same seed."""
    rng = random.Random(seed)
    makers = [make for make, _ in KINDS.values()]
    shares = [share for _, share in KINDS.values()]
    return [make(rng) for make in rng.choices(makers, shares, k=count)]
