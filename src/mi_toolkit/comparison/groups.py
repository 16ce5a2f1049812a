"""Which models differ by architecture alone, and which by scale alone, as their facts tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mi_toolkit.models.facts import ModelFacts

SAME_SIZE = 1.5
"""Models are of one size up to this ratio of parameters, the embeddings left out."""


@dataclass(frozen=True, kw_only=True)
class ModelGroup:
    """Models that share one thing and differ in another."""

    varies: Literal["architecture", "scale"]
    """What differs: the family at one size, or the size within one family."""

    shared: str
    """What they share: the size, such as `85M parameters`, or the family, such as `Pythia`."""

    models: tuple[str, ...]
    """Their names, in the order of the comparison or, where scale differs, of size."""


def size_classes(parameters: Mapping[str, int]) -> dict[str, int]:
    """Each model's size class: the parameters of the smallest model in it.

    From the smallest model up, a class takes all that have at most 1.5 times its first one's.

    >>> size_classes({"a": 85, "b": 302, "c": 100, "d": 391})
    {'a': 85, 'c': 85, 'b': 302, 'd': 302}
    """
    classes: dict[str, int] = {}
    first = 0
    for name in sorted(parameters, key=lambda name: parameters[name]):
        if parameters[name] > SAME_SIZE * first:
            first = parameters[name]
        classes[name] = first
    return classes


def groups_of(facts: Mapping[str, ModelFacts]) -> tuple[ModelGroup, ...]:
    """Same-size models of several families, then same-family models of several sizes.

    Sizes are `ModelFacts.parameters`: attention and MLPs, without embeddings.
    """
    sizes = size_classes({name: fact.parameters for name, fact in facts.items()})
    groups = []
    for size in sorted(set(sizes.values())):
        names = tuple(name for name in facts if sizes[name] == size)
        if len({facts[name].family for name in names}) > 1:
            most = max(facts[name].parameters for name in names)
            shared = (
                _count(size)
                if _count(size) == _count(most)
                else f"{_count(size)} to {_count(most)}"
            )
            groups.append(
                ModelGroup(varies="architecture", shared=f"{shared} parameters", models=names)
            )
    for family in dict.fromkeys(fact.family for fact in facts.values()):
        names = tuple(
            sorted(
                (name for name in facts if facts[name].family == family),
                key=lambda name: facts[name].parameters,
            )
        )
        if len({sizes[name] for name in names}) > 1:
            groups.append(ModelGroup(varies="scale", shared=family, models=names))
    return tuple(groups)


def _count(n: int) -> str:
    """Two digits and a unit: `85M`, `0.79M`."""
    if n >= 10**9:
        return f"{n / 1e9:.2g}B"
    return f"{n / 1e6:.0f}M" if n >= 10**7 else f"{n / 1e6:.2g}M"
