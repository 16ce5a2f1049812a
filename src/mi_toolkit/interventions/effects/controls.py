"""Random components to stand beside chosen ones: as many of each kind, where such are.

1. Heads and neurons: as many others of the same layer.
2. Whole parts (`L5.attn`, `L5.mlp`, `L5`): as many of the same kind in other layers, since a layer
   has one. Early and late layers differ, so this says less.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import torch

from mi_toolkit.heads.head import Head
from mi_toolkit.hooked_model import HookedModel, neuron_count
from mi_toolkit.interventions.ablation.component import Component, Part
from mi_toolkit.interventions.confirm.random_sets import random_sets

ComponentSet = tuple[Component, ...]


def random_controls(
    model: HookedModel, components: Sequence[Component], *, n_sets: int, seed: int
) -> tuple[ComponentSet, ...]:
    """Up to `n_sets` distinct random sets; all there are, where there are no more."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [
        _drawn(model, part, [c for c in components if c.part == part], n_sets, generator)
        for part in dict.fromkeys(component.part for component in components)
    ]
    # A kind without another set leaves its part of the sets empty.
    together = list(product(*(sets for sets in drawn if sets))) if any(drawn) else []
    order = torch.randperm(len(together), generator=generator)[:n_sets].tolist()
    return tuple(tuple(sorted(c for part in together[i] for c in part)) for i in order)


def _drawn(
    model: HookedModel,
    part: Part,
    components: Sequence[Component],
    n_sets: int,
    generator: torch.Generator,
) -> list[ComponentSet]:
    """Random sets of one kind.

    The draw knows groups and places in them: a head's or neuron's group is its layer; whole parts
    are one group, in which their layers are the places.
    """
    sizes = {
        "head": int(model.cfg.n_heads),
        "neuron": min(neuron_count(model, c.layer) for c in components),
    }
    made: Callable[[Head], Component]
    if part in sizes:
        chosen = [Head(c.layer, int(c.index or 0)) for c in components]
        made = lambda place: Component(place.layer, part, place.head)  # noqa: E731
    else:
        chosen = [Head(0, c.layer) for c in components]
        made = lambda place: Component(place.head, part)  # noqa: E731
    n_places = sizes.get(part, int(model.cfg.n_layers))
    found = random_sets(chosen, n_heads=n_places, n_sets=n_sets, generator=generator)
    return [tuple(made(place) for place in places) for places in found.sets]
