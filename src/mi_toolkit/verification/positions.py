"""Whether positions enter as the family has them: relative, or as numbers of their own.

The text stays; the positions that the model is told change. Rotary ones turn queries and keys, so
that only distances count: moved all by the same number, they leave every pattern as it was.
Learned ones are looked up, and moved they are others. At twice the distance both change.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.floors import ATTENTION
from mi_toolkit.hooked_model import HookedModel, attention_layers, evaluating, pattern_hook
from mi_toolkit.verification.outcome import Outcome, at_least, at_most, not_applicable
from mi_toolkit.verification.subject import SHIFT, Subject

_TOKENS = 24


def positions_shifted(subject: Subject) -> Outcome:
    """Rotary positions do not notice a shift, learned ones do."""
    told = _cannot_be_told(subject)
    if told is not None:
        return told
    floor, length = ATTENTION[subject.facts.dtype], min(_TOKENS, subject.ids.shape[1])
    here = torch.arange(length)
    change = _change(subject, here, here + SHIFT)
    what = f"Largest change of an attention weight when all positions are {SHIFT} later"
    if subject.facts.positional == "rotary":
        if change <= floor:
            return at_most(floor, change, f"{what}: rotary ones count distances, so there is none.")
        return at_most(
            floor,
            _off_reference(subject, here + SHIFT),
            f"{what}: {change:.2g}. Where norms follow the turning, or scores are far apart, so "
            "it is; the figure is the difference to Hugging Face's own at the later positions.",
        )
    return at_least(floor, change, f"{what}: learned ones are then others, so there is some.")


def positions_stretched(subject: Subject) -> Outcome:
    """At twice the distance attention is another."""
    told = _cannot_be_told(subject)
    if told is not None:
        return told
    length = min(_TOKENS, subject.ids.shape[1], subject.facts.context // 2)
    here = torch.arange(length)
    change = _change(subject, here, 2 * here)
    return at_least(
        ATTENTION[subject.facts.dtype],
        change,
        "Largest change of an attention weight at twice the distances: without any, positions "
        "would have no part.",
    )


def _cannot_be_told(subject: Subject) -> Outcome | None:
    if subject.facts.positional not in ("rotary", "learned"):
        return not_applicable(f"Positions are {subject.facts.positional}: there are none to move.")
    if not subject.attention_layers():
        return not_applicable("The model has no attention pattern to see them in.")
    if not hasattr(subject.model, "original_model"):
        return not_applicable("A HookedTransformer cannot be told positions: load a bridge.")
    return None


def _change(subject: Subject, these: Tensor, those: Tensor) -> float:
    ids = subject.ids[:, : len(these)]
    first, second = (_patterns(subject.model, ids, positions) for positions in (these, those))
    return _farthest(first, second)


def _off_reference(subject: Subject, positions: Tensor) -> float:
    """The largest difference of a weight to Hugging Face's own; infinite where it gives none."""
    ids = subject.ids[:, : len(positions)]
    at = positions[None].to(ids.device)
    wanted = subject.reference_patterns(ids, position_ids=at)
    layers = attention_layers(subject.model)
    if set(wanted) != set(layers):
        return torch.inf
    found = dict(zip(layers, _patterns(subject.model, ids, positions), strict=True))
    return _farthest(found.values(), [wanted[layer][0].float().cpu() for layer in layers])


def _farthest(first: Iterable[Tensor], second: Iterable[Tensor]) -> float:
    off = [(a - b).abs().max() for a, b in zip(first, second, strict=True)]
    return float(torch.stack(off).max().nan_to_num(torch.inf))


def _patterns(
    model: HookedModel, ids: Int[Tensor, "1 position"], positions: Int[Tensor, " position"]
) -> list[Float[Tensor, "head query key"]]:
    kept: list[Tensor] = []

    def keep(patterns: Tensor, hook: object) -> None:
        kept.append(patterns[0].float().cpu())

    hooks = [(pattern_hook(layer), keep) for layer in attention_layers(model)]
    with evaluating(model), torch.no_grad(), model.hooks(fwd_hooks=hooks):
        model(
            ids,
            return_type=None,
            attention_mask=torch.ones_like(ids),
            position_ids=positions[None].to(ids.device),
            use_cache=False,
        )
    return kept
