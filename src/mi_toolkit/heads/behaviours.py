"""The table of behaviours: what each is called, how it is measured, and what triggers it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from jaxtyping import Bool, Int
from torch import Tensor

from mi_toolkit.errors import unknown_name
from mi_toolkit.heads import masks, scores

Mask = Callable[[Int[Tensor, " position"], bool], Bool[Tensor, "position position"]]
"""From one sequence's ids, and whether position 0 is a BOS, to the target keys of each query."""

Terms = Callable[[scores.PatternRows, scores.PatternRows | None], scores.QueryTerms]
"""From the patterns of a sequence and the next to each head's and query's part of a ratio."""


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """Something a head may do, told by the attention pattern alone."""

    name: str
    """As in tables and labels."""

    meaning: str
    """What a head that does it attends to, in one line."""

    trigger: str
    """The prompt that gives the behaviour a chance to show."""

    home: Literal["repeated_random", "natural"]
    """The stimulus that the standard protocol labels it on."""

    min_label: float | None
    """The lower bound that `ci_low` must reach for the label; None for the caller's `min_lift`."""


@dataclass(frozen=True, kw_only=True)
class MaskBehaviour(Behaviour):
    """Attention to a set of target keys, scored against what even attention would score."""

    targets: Mask
    """Marks the target keys of each query."""

    home: Literal["repeated_random", "natural"] = "repeated_random"
    min_label: float | None = None


@dataclass(frozen=True, kw_only=True)
class DistributionBehaviour(Behaviour):
    """A figure of whole rows, with a scale of its own: no null, no lift."""

    terms: Terms
    """The numerator and denominator that each head and query adds."""

    first_query: int
    """The first query that can count."""

    pools_queries: bool
    """Whether the value is a ratio of sums over all queries, or a mean over sequences of means."""

    compares_sequences: bool = False
    """Whether it compares each sequence with the next."""

    excluded_stimuli: tuple[str, ...] = ()
    """Stimuli on which the figure would mislead, and is not given."""

    home: Literal["repeated_random", "natural"] = "natural"


AnyBehaviour = MaskBehaviour | DistributionBehaviour

_TABLE: tuple[AnyBehaviour, ...] = (
    MaskBehaviour(
        name="previous_token",
        meaning="the token just before",
        trigger="a prompt of two tokens or more",
        targets=masks.previous_token,
    ),
    MaskBehaviour(
        name="current_token",
        meaning="the query's own position",
        trigger="a prompt of two tokens or more",
        targets=masks.current_token,
    ),
    MaskBehaviour(
        name="first_token",
        meaning="position 0, the attention sink: where a head rests when it has nothing to do",
        trigger="a prompt of two tokens or more",
        targets=masks.first_token,
    ),
    MaskBehaviour(
        name="duplicate_token",
        meaning="earlier copies of the same token",
        trigger="a prompt in which a token occurs twice, such as 'Mary and John … Mary'",
        targets=masks.duplicate_token,
    ),
    MaskBehaviour(
        name="induction",
        meaning="the token that followed earlier copies of this one (prefix matching alone)",
        trigger="a prompt in which a token occurs twice with others between, such as 'A B … A'",
        targets=masks.induction,
    ),
    DistributionBehaviour(
        name="locality",
        meaning="how near it looks, the sink apart: 1 near, 0 evenly, below 0 far",
        trigger="a prompt of four tokens or more, and a head that looks off the sink",
        terms=scores.locality_terms,
        first_query=scores.FIRST_LOCALITY_QUERY,
        pools_queries=True,
        min_label=0.5,
    ),
    DistributionBehaviour(
        name="positional",
        meaning="how much position alone decides where it looks, the sink apart",
        trigger="two prompts or more with different tokens, of three tokens or more",
        terms=scores.positional_terms,
        first_query=scores.FIRST_POSITIONAL_QUERY,
        pools_queries=False,
        compares_sequences=True,
        excluded_stimuli=("repeated_random",),
        min_label=0.6,
    ),
    DistributionBehaviour(
        name="diffuse",
        meaning="how evenly it spreads over all that it may see",
        trigger="a prompt of nine tokens or more",
        terms=scores.diffuse_terms,
        first_query=scores.FIRST_DIFFUSE_QUERY,
        pools_queries=False,
        min_label=0.85,
    ),
)

BEHAVIOURS: Mapping[str, AnyBehaviour] = MappingProxyType(
    {behaviour.name: behaviour for behaviour in _TABLE}
)
"""Every behaviour by its name, in the order of a report's first axis."""


def chosen(names: Sequence[str] | None) -> tuple[AnyBehaviour, ...]:
    """The named behaviours in the table's order, all of them for None.

    Raises:
        UnknownNameError: a name that is not in the table.
    """
    if names is None:
        return tuple(BEHAVIOURS.values())
    for name in names:
        if name not in BEHAVIOURS:
            raise unknown_name("behaviour", name, BEHAVIOURS)
    return tuple(behaviour for behaviour in BEHAVIOURS.values() if behaviour.name in names)
