"""Labels: which behaviours a head shows beyond doubt, from one-sided p or from intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_toolkit.core.stats import discoveries
from mi_toolkit.heads.kinds import BehaviourSpec

SCOPE_NAMES = ("local", "global", "undetermined")
UNCLASSIFIED = "unclassified"
NOT_FINITE = "not finite"
LOCAL_FROM = 0.5
"""The locality from which a head is local, under which it is global."""

MIN_COVERAGE = 0.1
DEFAULT_MIN_LIFT = 0.3
DEFAULT_FDR = 0.05


class BarFigures(NamedTuple):
    """What one behaviour's label is decided by."""

    score: Float[Tensor, "layer head"]
    ci_low: Float[Tensor, "layer head"]
    ci_high: Float[Tensor, "layer head"]

    p: Float[Tensor, "layer head"]
    """One-sided, of a true figure at or under the bar."""


def label_names(facts: Mapping[str, BehaviourSpec]) -> tuple[str, ...]:
    """What a head can be labelled with: not `locality`, which is its scope."""
    names: list[str] = []
    for name, behaviour in facts.items():
        if behaviour.carries_label:
            names.append(name)
        if behaviour.suppressing is not None:
            names.append(behaviour.suppressing)
    return tuple(names)


def behaviour_of(label: str, facts: Mapping[str, BehaviourSpec]) -> str:
    """The behaviour that a label rests on: its own name, unless it is one of suppressing."""
    owners = [name for name, behaviour in facts.items() if behaviour.suppressing == label]
    return owners[0] if owners else label


def bar_of(behaviour: BehaviourSpec, min_lift: float) -> float:
    """What a figure must exceed for the label: the behaviour's own bar, or the caller's."""
    return min_lift if behaviour.min_label is None else behaviour.min_label


def clears_bar(
    figures: Mapping[str, BarFigures],
    facts: Mapping[str, BehaviourSpec],
    *,
    min_lift: float,
    fdr: float | None,
) -> dict[str, Bool[Tensor, "layer head"]]:
    """Which heads look where each behaviour asks, beyond doubt.

    Over all heads and all behaviours that carry a label, at most `fdr` of those that clear their
    bar do so by chance, in expectation (Benjamini and Hochberg on the one-sided p). None: each head
    alone, where the 95% interval lies above the bar. `positional` also asks that the head is known
    not to be diffuse, since a head that spreads evenly has the same rows on every text.
    """
    tested = [name for name, behaviour in facts.items() if behaviour.carries_label]
    clears = {
        name: of_head.ci_low >= bar_of(facts[name], min_lift) for name, of_head in figures.items()
    }
    if fdr is not None and tested:
        found = discoveries(torch.stack([figures[name].p for name in tested]), fdr)
        clears |= dict(zip(tested, found, strict=True))
    if "positional" in clears:
        clears["positional"] &= ~_evenly(figures, facts)
    return clears


def borderline_heads(
    figures: Mapping[str, BarFigures],
    facts: Mapping[str, BehaviourSpec],
    *,
    min_lift: float,
    fdr: float | None,
) -> dict[str, Bool[Tensor, "layer head"]]:
    """Which heads these texts cannot tell from each behaviour's bar: more texts would.

    Their interval reaches beyond the bar, and they do not clear it beyond doubt.
    """
    clears = clears_bar(figures, facts, min_lift=min_lift, fdr=fdr)
    found = {}
    for name, behaviour in facts.items():
        reaches = figures[name].ci_high > bar_of(behaviour, min_lift)
        found[name] = reaches & ~clears[name] & behaviour.carries_label
    if "positional" in found:
        found["positional"] &= ~_evenly(figures, facts)
    return found


def _evenly(
    figures: Mapping[str, BarFigures], facts: Mapping[str, BehaviourSpec]
) -> Bool[Tensor, "layer head"]:
    """Heads that spread evenly, or may: where that was not measured, all."""
    if "diffuse" not in figures:
        return torch.ones_like(figures["positional"].score, dtype=torch.bool)
    return ~(figures["diffuse"].score < (facts["diffuse"].min_label or 1.0))


def label_heads(
    figures: Mapping[str, BarFigures],
    copying: Mapping[str, tuple[Float[Tensor, "layer head"], Float[Tensor, "layer head"]]],
    facts: Mapping[str, BehaviourSpec],
    *,
    min_lift: float,
    fdr: float | None,
    require_copying: bool = False,
) -> Bool[Tensor, "label layer head"]:
    """Which head carries which label, in the order of `label_names`.

    `copying` holds the interval of the direct effect, for the behaviours that ask for it: a head
    that looks where the behaviour asks and lowers what it finds there gets the suppressing label
    instead. Where the effect is not known, attention alone decides, and nothing is labelled that
    needs it. With `require_copying` every such label needs that the head is shown to raise it.
    """
    rows = []
    all_clear = clears_bar(figures, facts, min_lift=min_lift, fdr=fdr)
    for name, behaviour in facts.items():
        clears = all_clear[name]
        lowers = torch.zeros_like(clears)
        if behaviour.suppressing is not None:
            low, high = copying[name]
            lowers = clears & (high < 0)
            if behaviour.needs_copying or require_copying:
                clears = clears & (low > 0)
        if behaviour.carries_label:
            rows.append(clears & ~lowers)
        if behaviour.suppressing is not None:
            rows.append(lowers)
    if not rows:
        shape = next(iter(figures.values())).score.shape
        return torch.zeros(0, *shape, dtype=torch.bool)
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
