"""The table of behaviours: what each is called, how it is measured, and what triggers it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial

from mi_toolkit.errors import BehaviourError
from mi_toolkit.heads import masks, scores, targets
from mi_toolkit.heads.kinds import Behaviour
from mi_toolkit.heads.kinds import DistributionBehaviour as DistributionBehaviour
from mi_toolkit.heads.kinds import MaskBehaviour as MaskBehaviour
from mi_toolkit.heads.ordinals import successor_maps
from mi_toolkit.heads.registry import BehaviourTable
from mi_toolkit.heads.token_maps import CircuitBehaviour

AnyBehaviour = MaskBehaviour | DistributionBehaviour
"""The kinds that are measured on attention patterns."""


@lru_cache
def offset(distance: int) -> MaskBehaviour:
    """Attention to the token exactly `distance` places back; by name, `offset_3` for 3.

    `previous_token` is `offset(1)`. The table knows every `offset_D`, so that
    `classify_heads(model, behaviours=["offset_3"])` works without a call of this function. On
    `repeated_random`, whose copies lie 64 apart, an induction head is an `offset_63` head too: for
    such distances give a prompt of your own.

    Raises:
        BehaviourError: the distance is under 1.

    Example:
        >>> import mi_toolkit as mi
        >>> mi.offset(2).name
        'offset_2'
    """
    if distance < 1:
        raise BehaviourError(f"An offset is 1 or more tokens back, not {distance}.")
    return MaskBehaviour(
        name=f"offset_{distance}",
        meaning=f"the token {distance} back"
        if distance > 1
        else "the token just before, as previous_token",
        trigger=f"a prompt of {distance + 1} tokens or more behind its BOS, and a window as wide",
        targets=partial(masks.fixed_offset, distance=distance),
        sparse=partial(targets.at_offset, distance=distance),
    )


_STANDARD: tuple[AnyBehaviour, ...] = (
    MaskBehaviour(
        name="previous_token",
        meaning="the token just before",
        trigger="a prompt of two tokens or more",
        targets=masks.previous_token,
        sparse=partial(targets.at_offset, distance=1),
    ),
    MaskBehaviour(
        name="current_token",
        meaning="the query's own position",
        trigger="a prompt of two tokens or more",
        targets=masks.current_token,
        sparse=partial(targets.at_offset, distance=0),
    ),
    MaskBehaviour(
        name="first_token",
        meaning="position 0, the attention sink: where a head rests when it has nothing to do",
        trigger="a prompt of two tokens or more",
        targets=masks.first_token,
        sparse=targets.at_start,
    ),
    MaskBehaviour(
        name="duplicate_token",
        meaning="earlier copies of the same token",
        trigger="a prompt in which a token occurs twice, such as 'Mary and John … Mary'",
        targets=masks.duplicate_token,
        sparse=targets.at_copies,
    ),
    MaskBehaviour(
        name="induction",
        meaning="the token that followed earlier copies of this one",
        trigger="a prompt in which a token occurs twice with others between, such as 'A B … A'",
        targets=masks.induction,
        sparse=targets.behind_copies,
        suppressing="prefix_suppression",
    ),
    DistributionBehaviour(
        name="locality",
        meaning="how near it looks, the sink apart: 1 near, 0 evenly, below 0 far",
        trigger="a prompt of four tokens or more, and a head that looks off the sink",
        terms=scores.locality_terms,
        needs=("mass", "distance"),
        first_query=scores.FIRST_LOCALITY_QUERY,
        pools_queries=True,
        value_range=(-2.0, 1.0),
        min_label=0.5,
        carries_label=False,  # it decides a head's scope
    ),
    DistributionBehaviour(
        name="positional",
        meaning="how much position alone decides where it looks, the sink apart",
        trigger="two prompts or more with different tokens, of three tokens or more",
        terms=scores.positional_terms,
        needs=("mass", "variation"),
        first_query=scores.FIRST_POSITIONAL_QUERY,
        pools_queries=False,
        compares_sequences=True,
        value_range=(0.0, 1.0),
        excluded_stimuli=("repeated_random",),
        min_label=0.6,
    ),
    DistributionBehaviour(
        name="diffuse",
        meaning="how evenly it spreads over all that it may see",
        trigger="a prompt of nine tokens or more",
        terms=scores.diffuse_terms,
        needs=("entropy",),
        first_query=scores.FIRST_DIFFUSE_QUERY,
        pools_queries=False,
        value_range=(0.0, 1.0),
        min_label=0.85,
    ),
)

_FURTHER: tuple[Behaviour, ...] = (
    MaskBehaviour(
        name="name_mover",
        meaning="from the end of an IOI prompt the indirect object's name, which should follow",
        trigger="prompts with the roles end and io, such as ioi_prompts(model) makes",
        targets=masks.end_to_name,
        roles=("end", "io"),
        suppressing="negative_name_mover",
        needs_copying=True,
        home="ioi",
    ),
    MaskBehaviour(
        name="s_inhibition",
        meaning="from the end of an IOI prompt the subject's second mention",
        trigger="prompts with the roles end and s2, such as ioi_prompts(model) makes",
        targets=masks.end_to_name,
        roles=("end", "s2"),
        home="ioi",
    ),
    MaskBehaviour(
        name="retrieval",
        meaning="most of all the hidden token that is being copied out of a long text",
        trigger="prompts with the roles needle and answer, such as needle_prompts(model) makes",
        targets=masks.copied_token,
        roles=("needle", "answer"),
        top_only=True,
        home="needle",
        min_label=0.1,
    ),
    CircuitBehaviour(
        name="successor",
        meaning="its weights turn an ordinal token (Monday, 3, March) into the next",
        trigger="no prompt at all, as it reads the weights, and a tokenizer that has days, months, "
        "numbers or letters as single tokens",
        maps=successor_maps,
    ),
)

STANDARD = tuple(behaviour.name for behaviour in _STANDARD)
"""The behaviours of the standard protocol: what `classify_heads` measures when none is named."""

BEHAVIOURS = BehaviourTable((*_STANDARD, *_FURTHER), families={"offset": offset})
"""Every behaviour by its name: the standard ones, further ones that run when they are named, and
what users and installed packages add."""


def chosen(names: Sequence[str | Behaviour] | str | None) -> tuple[Behaviour, ...]:
    """The named behaviours in the table's order, the standard ones for None.

    A behaviour itself may stand for its name; it need not be in the table.

    Raises:
        UnknownNameError: a name that is not in the table.
        BehaviourError: a name that several claim, or behaviours of one name.
    """
    if names is None:
        return _STANDARD
    asked = [names] if isinstance(names, str) else names
    found: dict[str, Behaviour] = {}
    for asked_for in asked:
        behaviour = BEHAVIOURS.resolve(asked_for) if isinstance(asked_for, str) else asked_for
        if found.setdefault(behaviour.name, behaviour) != behaviour:
            raise BehaviourError(f"Two behaviours given are called {behaviour.name!r}.")
    place = {name: index for index, name in enumerate(BEHAVIOURS)}
    return tuple(sorted(found.values(), key=lambda b: place.get(b.name, len(place))))
