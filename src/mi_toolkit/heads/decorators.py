"""Behaviours of your own: decorators that put a function into the table of behaviours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mi_toolkit.heads.behaviours import BEHAVIOURS
from mi_toolkit.heads.kinds import DistributionBehaviour, Mask, MaskBehaviour, Terms
from mi_toolkit.heads.token_maps import CircuitBehaviour, TokenMap


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

    Raises:
        BehaviourError: the name is taken or no identifier. A mask of a wrong shape or type, or
            one with a target in a query's future, is told when it is measured.

    Example:
        >>> import torch, mi_toolkit as mi
        >>> with mi.BEHAVIOURS.scope():
        ...     @mi.mask_behaviour(
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
        BehaviourError: the name is taken or no identifier. Terms of a wrong shape are told when
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
