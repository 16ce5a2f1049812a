"""The table of behaviours: what each is called, how it is measured, and what triggers it."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from typing import Any

from mi_toolkit.core.errors import BehaviourError, short_repr
from mi_toolkit.core.vocabulary import single_token_ids
from mi_toolkit.heads import scores, targets
from mi_toolkit.heads.kinds import Behaviour, CircuitBehaviour, Mask, Terms, TokenMap
from mi_toolkit.heads.kinds import DistributionBehaviour as DistributionBehaviour
from mi_toolkit.heads.kinds import MaskBehaviour as MaskBehaviour
from mi_toolkit.heads.registry import BehaviourTable
from mi_toolkit.heads.relations import RELATIONS, of_text

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


AnyBehaviour = MaskBehaviour | DistributionBehaviour
"""The kinds that are measured on attention patterns."""


def _by_lists(*, listed: targets.SparseMask, **facts: Any) -> MaskBehaviour:
    """A behaviour whose mask marks the keys of its lists."""
    return MaskBehaviour(targets=partial(targets.mask_of, listed), sparse=listed, **facts)


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
        >>> mi.heads.offset(2).name
        'offset_2'
    """
    if distance < 1:
        raise BehaviourError(f"An offset is 1 or more tokens back, not {distance}.")
    return _by_lists(
        name=f"offset_{distance}",
        meaning=f"the token {distance} back"
        if distance > 1
        else "the token just before, as previous_token",
        trigger=f"a prompt of {distance + 1} tokens or more after its BOS, and a window as wide",
        listed=partial(targets.at_offset, distance=distance),
    )


_STANDARD: tuple[AnyBehaviour, ...] = (
    _by_lists(
        name="previous_token",
        meaning="the token just before",
        trigger="a prompt of two tokens or more",
        listed=partial(targets.at_offset, distance=1),
    ),
    _by_lists(
        name="current_token",
        meaning="the query's own position",
        trigger="a prompt of two tokens or more",
        listed=partial(targets.at_offset, distance=0),
    ),
    _by_lists(
        name="first_token",
        meaning="position 0, the attention sink: where a head rests when it has nothing to do",
        trigger="a prompt of two tokens or more",
        listed=targets.at_start,
    ),
    _by_lists(
        name="duplicate_token",
        meaning="earlier copies of the same token",
        trigger="a prompt in which a token occurs twice, such as 'Mary and John … Mary'",
        listed=targets.at_copies,
    ),
    _by_lists(
        name="induction",
        meaning="the token that followed earlier copies of this one",
        trigger="a prompt in which a token occurs twice with others between, such as 'A B … A'",
        listed=targets.after_copies,
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


def _of_text(name: str, *, trigger: str) -> MaskBehaviour:
    """A relation of text as a behaviour."""
    return _by_lists(
        name=name,
        meaning=RELATIONS[name].meaning,
        trigger=trigger,
        listed=partial(of_text, relation=name),
        reads_text=True,
        home="natural",
    )


_FURTHER: tuple[Behaviour, ...] = (
    MaskBehaviour(
        name="name_mover",
        meaning="from the end of an IOI prompt the indirect object's name, which should follow",
        trigger="prompts with the roles end and io, such as ioi_prompts(model) makes",
        targets=targets.end_to_name,
        roles=("end", "io"),
        suppressing="negative_name_mover",
        needs_copying=True,
        home="ioi",
    ),
    MaskBehaviour(
        name="s_inhibition",
        meaning="from the end of an IOI prompt the subject's second mention",
        trigger="prompts with the roles end and s2, such as ioi_prompts(model) makes",
        targets=targets.end_to_name,
        roles=("end", "s2"),
        home="ioi",
    ),
    MaskBehaviour(
        name="retrieval",
        meaning="most of all the hidden token that is being copied out of a long text",
        trigger="prompts with the roles needle and answer, such as needle_prompts(model) makes",
        targets=targets.copied_token,
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
    _of_text("delimiter", trigger="a text with a stop, a comma or two lines"),
    _of_text("subword", trigger="a text with a word of several tokens"),
    _of_text("same_word", trigger="a text in which a word comes twice"),
    _of_text("sentence_start", trigger="a text of two sentences or more"),
    _of_text("bracket", trigger="a text with something in brackets"),
    _of_text("quote", trigger='a text with something in double quotes, as in He said "Go."'),
)

STANDARD = tuple(behaviour.name for behaviour in _STANDARD)
"""The behaviours of the standard protocol: what `classify_heads` measures when none is named."""

BEHAVIOURS = BehaviourTable((*_STANDARD, *_FURTHER), families={"offset": offset})
"""Every behaviour by its name: the standard ones, further ones that run when they are named, and
what users and installed packages add."""


def chosen(names: Sequence[str | Behaviour] | str | None) -> tuple[Behaviour, ...]:
    """The named behaviours in the table's order, the standard ones for None.

    A behaviour itself may stand for its name; it need not be in the table. `positional` brings
    `diffuse` along, which its label asks about.

    Raises:
        UnknownNameError: a name that is not in the table.
        BehaviourError: none, a name that several claim, or behaviours of one name.
    """
    if names is None:
        return _STANDARD
    asked = [names] if isinstance(names, str | Behaviour) else names
    if not isinstance(asked, Iterable):
        raise BehaviourError(
            f"behaviours are names, and not {short_repr(asked)}: behaviours=['induction']."
        )
    if not asked:
        raise BehaviourError(
            "No behaviour is asked for: name one or more, or leave behaviours out for the standard "
            f"ones ({', '.join(each.name for each in _STANDARD)})."
        )
    found: dict[str, Behaviour] = {}
    for asked_for in asked:
        behaviour = BEHAVIOURS.resolve(asked_for) if isinstance(asked_for, str) else asked_for
        if not isinstance(behaviour, Behaviour):
            raise BehaviourError(
                f"A behaviour is given by its name or as itself, not {short_repr(behaviour)}: "
                "behaviours=['induction']."
            )
        if found.setdefault(behaviour.name, behaviour) != behaviour:
            raise BehaviourError(f"Two behaviours given are called {behaviour.name!r}.")
    if "positional" in found and "diffuse" in BEHAVIOURS:
        found.setdefault("diffuse", BEHAVIOURS["diffuse"])
    place = {name: index for index, name in enumerate(BEHAVIOURS)}
    return tuple(sorted(found.values(), key=lambda b: place.get(b.name, len(place))))


def mask_behaviour(
    *,
    name: str,
    meaning: str,
    trigger: str,
    home: str = "repeated_random",
    min_label: float | None = None,
    roles: Sequence[str] = (),
    top_only: bool = False,
    suppressing: str | None = None,
    needs_copying: bool = False,
    reads_text: bool = False,
) -> Callable[[Mask], MaskBehaviour]:
    """Register a behaviour of your own by the keys that a head looks at.

    Decorates a function `(ids, has_bos) -> mask`: from the token ids of one sequence, and whether
    position 0 is a BOS, to a tensor of booleans `[query key]` that marks, for each query, the keys
    to look at. Score, chance, lift, interval and label follow as for the built-in behaviours. The
    function's name then stands for the behaviour.

    Args:
        name: as in tables and labels: letters, digits and underscores.
        meaning: what a head that does it attends to, in one line.
        trigger: the prompt that gives it a chance to show, as in "needs …".
        home: the stimulus that labels it where no prompt is given, a name of `STIMULI`.
        min_label: the lift to exceed beyond doubt for the label; None for the caller's
            `min_lift`.
        roles: the roles of a stimulus, such as `end`, whose positions the function takes as
            keyword arguments (each a `range`); a sequence without them has no target.
        top_only: count a query where the key attended most is a target, as retrieval heads are
            counted, in place of the attention on the targets.
        suppressing: the label, in place of this one, of heads whose direct effect lowers the
            logits of the tokens at the targets; None where that is not asked.
        needs_copying: with `suppressing`: whether the label asks that the head raises them.
        reads_text: whether the function takes the text of each token too, as the keyword argument
            `texts`; without a tokenizer it is not applicable.

    Raises:
        BehaviourError: the name is taken or no identifier. A mask of a wrong shape or type, or
            one with a target in a query's future, is reported when it is measured.

    Example:
        >>> import torch, mi_toolkit as mi
        >>> with mi.heads.BEHAVIOURS.scope():
        ...     @mi.heads.mask_behaviour(
        ...         name="second_token", meaning="position 1", trigger="a prompt of two tokens"
        ...     )
        ...     def second_token(ids, has_bos):
        ...         position = torch.arange(len(ids))
        ...         return (position[None, :] == 1) & (position[:, None] >= 1)
        ...     model = mi.load_model("toy-gpt2")
        ...     report = mi.classify_heads(model, behaviours=["second_token"])
        >>> report["second_token"].shape
        torch.Size([4, 4])
    """

    def register(targets: Mask) -> MaskBehaviour:
        return BEHAVIOURS.register(
            MaskBehaviour(
                name=name,
                meaning=meaning,
                trigger=trigger,
                home=home,
                min_label=min_label,
                targets=targets,
                roles=tuple(roles),
                top_only=top_only,
                suppressing=suppressing,
                needs_copying=needs_copying,
                reads_text=reads_text,
            )
        )

    return register


def distribution_behaviour(
    *,
    name: str,
    meaning: str,
    trigger: str,
    home: str = "natural",
    min_label: float | None = None,
    first_query: int = 0,
    pools_queries: bool = False,
    compares_sequences: bool = False,
    value_range: tuple[float, float] | None = None,
    excluded_stimuli: Sequence[str] = (),
) -> Callable[[Terms], DistributionBehaviour]:
    """Register a behaviour of your own by a value of whole rows of attention.

    Decorates a function `(rows, following) -> (numerator, denominator)`: from the `PatternRows` of
    one sequence, and of another (None unless it compares), to two tensors `[head query]`. The value
    is the ratio of their sums; a row that is not to count has 0 in both. It has no chance level.

    Args:
        name: as in tables and labels: letters, digits and underscores.
        meaning: what the value says, in one line.
        trigger: the prompt that gives it a chance to show, as in "needs …".
        home: the stimulus that it is measured on where no prompt is given, a name of `STIMULI`.
        min_label: the value to exceed beyond doubt for the label; None for no label.
        first_query: the first query that can count.
        pools_queries: the ratio of sums over all queries, in place of the mean over sequences of
            each sequence's own ratio.
        compares_sequences: whether `following` is wanted: texts are then compared in pairs.
        value_range: the lowest and highest value there can be, where that is known: intervals near
            an end are better for it.
        excluded_stimuli: stimuli on which the value would mislead, and is not given.

    Raises:
        BehaviourError: the name is taken or no identifier. Terms of a wrong shape are reported when
            they are measured.
    """

    def register(terms: Terms) -> DistributionBehaviour:
        return BEHAVIOURS.register(
            DistributionBehaviour(
                name=name,
                meaning=meaning,
                trigger=trigger,
                home=home,
                min_label=min_label,
                carries_label=min_label is not None,
                terms=terms,
                first_query=first_query,
                pools_queries=pools_queries,
                compares_sequences=compares_sequences,
                value_range=value_range,
                excluded_stimuli=tuple(excluded_stimuli),
            )
        )

    return register


def circuit_behaviour(
    *, name: str, meaning: str, trigger: str, min_label: float | None = None
) -> Callable[[Callable[[Any], Sequence[TokenMap]]], CircuitBehaviour]:
    """Register a behaviour of your own by what a head's weights make of tokens.

    Decorates a function from a model's tokenizer to `TokenMap`s: which of a class of tokens should
    become which. `successor` is one: Monday to Tuesday, among the days. No text is run. A head is
    scored by how often its output-value circuit raises the target's logit above those of the whole
    class, against the mean over all permutations of the targets.

    Args:
        name: as in tables and labels: letters, digits and underscores.
        meaning: what a head that does it makes of a token, in one line.
        trigger: what the tokenizer must have, as in "needs …".
        min_label: the lift to exceed beyond doubt for the label; None for the caller's
            `min_lift`.

    Raises:
        BehaviourError: the name is taken or no identifier.
    """

    def register(maps: Callable[[Any], Sequence[TokenMap]]) -> CircuitBehaviour:
        return BEHAVIOURS.register(
            CircuitBehaviour(
                name=name, meaning=meaning, trigger=trigger, min_label=min_label, maps=maps
            )
        )

    return register
