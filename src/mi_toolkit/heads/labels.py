"""Labels: which behaviours a head shows beyond doubt, from the lower ends of its intervals."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_toolkit.heads.kinds import BehaviourFacts

SCOPE_NAMES = ("local", "global", "undetermined")
UNCLASSIFIED = "unclassified"
LOCAL_FROM = 0.5
"""The locality from which a head is local, under which it is global."""

MIN_COVERAGE = 0.1
DEFAULT_MIN_LIFT = 0.3


def label_names(facts: Mapping[str, BehaviourFacts]) -> tuple[str, ...]:
    """What a head can be labelled with: not `locality`, which is its scope."""
    names: list[str] = []
    for name, behaviour in facts.items():
        if behaviour.carries_label:
            names.append(name)
        if behaviour.suppressing is not None:
            names.append(behaviour.suppressing)
    return tuple(names)


def behaviour_of(label: str, facts: Mapping[str, BehaviourFacts]) -> str:
    """The behaviour that a label rests on: its own name, unless it is one of suppressing."""
    owners = [name for name, behaviour in facts.items() if behaviour.suppressing == label]
    return owners[0] if owners else label


def clears_bar(
    name: str,
    score: Mapping[str, Float[Tensor, "layer head"]],
    ci_low: Mapping[str, Float[Tensor, "layer head"]],
    facts: Mapping[str, BehaviourFacts],
    *,
    min_lift: float,
) -> Bool[Tensor, "layer head"]:
    """Which heads look where a behaviour asks, beyond doubt.

    A mask behaviour's bar is `min_lift`; `positional` (0.6) also asks that the head is not diffuse,
    since a head that spreads evenly has the same rows on every text.
    """
    bar = facts[name].min_label
    clears = ci_low[name] >= (min_lift if bar is None else bar)
    if name == "positional" and "diffuse" in score:
        clears &= ~(score["diffuse"] >= (facts["diffuse"].min_label or 1.0))
    return clears


def label_heads(
    score: Mapping[str, Float[Tensor, "layer head"]],
    ci_low: Mapping[str, Float[Tensor, "layer head"]],
    copying: Mapping[str, tuple[Float[Tensor, "layer head"], Float[Tensor, "layer head"]]],
    facts: Mapping[str, BehaviourFacts],
    *,
    min_lift: float,
) -> Bool[Tensor, "label layer head"]:
    """Which head carries which label, in the order of `label_names`.

    `copying` holds the interval of the direct effect, for the behaviours that ask for it: a head
    that looks where the behaviour asks and lowers what it finds there gets the suppressing label
    instead. Where the effect is not known, attention alone decides, and nothing is labelled that
    needs it.
    """
    rows = []
    for name, behaviour in facts.items():
        clears = clears_bar(name, score, ci_low, facts, min_lift=min_lift)
        lowers = torch.zeros_like(clears)
        if behaviour.suppressing is not None:
            low, high = copying[name]
            lowers = clears & (high < 0)
            if behaviour.needs_copying:
                clears &= low > 0
        if behaviour.carries_label:
            rows.append(clears & ~lowers)
        if behaviour.suppressing is not None:
            rows.append(lowers)
    if not rows:
        return torch.zeros(0, *next(iter(ci_low.values())).shape, dtype=torch.bool)
    return torch.stack(rows)


def scope_of_heads(
    ci_low: Float[Tensor, "layer head"],
    ci_high: Float[Tensor, "layer head"],
    coverage: Float[Tensor, "layer head"],
) -> Int[Tensor, "layer head"]:
    """Each head's scope, as an index into `SCOPE_NAMES`, from the interval of its locality."""
    bar = LOCAL_FROM
    scope = torch.full(ci_low.shape, SCOPE_NAMES.index("undetermined"))
    scope[ci_low >= bar] = SCOPE_NAMES.index("local")
    scope[ci_high < bar] = SCOPE_NAMES.index("global")
    scope[~(coverage >= MIN_COVERAGE)] = SCOPE_NAMES.index("undetermined")
    return scope
