"""Whether parts that only some families have are at work: biases, norms of Q and K, stretched RoPE.

That the logits equal Hugging Face's says little of a part that does nothing. So the part is taken
out of the reference: the hooked model, which has it, has to differ from that.

Whether positions enter as the family has them: relative, or as numbers of their own.

The text stays; the positions that the model is given change. Rotary ones turn queries and keys, so
that only distances count: moved all by the same number, they leave every pattern as it was.
Learned ones are looked up, and moved they are others. At twice the distance both change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.core.model import (
    HookedModel,
    attached,
    attention_layers,
    evaluating,
    pattern_hook,
)
from mi_toolkit.core.tolerances import ATTENTION, logit_floor
from mi_toolkit.models.describe import QK_NORM, QKV_BIAS
from mi_toolkit.verification.check_input import SHIFT, CheckInput
from mi_toolkit.verification.outcome import Outcome, at_least, at_most, not_applicable


def qkv_bias(subject: CheckInput) -> Outcome:
    """Biases of queries, keys and values are added, where the family has them."""
    named = subject.reference.named_parameters()
    biases = [parameter for name, parameter in named if QKV_BIAS.search(name)]
    if not biases:
        return not_applicable("The family has no biases in Q, K and V.")
    if not any(bool(bias.any()) for bias in biases):
        return not_applicable("Q, K and V have biases, but all are 0.")
    with _zeroed(biases):
        without = subject.reference_logits()
    return _different(subject, subject.logits(), without, "the biases of Q, K and V")


def qk_norm(subject: CheckInput) -> Outcome:
    """Queries and keys are normalised, where the family does it."""
    norms = [
        module
        for name, module in subject.reference.named_modules()
        if QK_NORM.search(f"{name}.") and not list(module.children())
    ]
    if not norms:
        return not_applicable("The family does not normalise queries and keys.")
    with attached(module.register_forward_hook(_passing) for module in norms):
        without = subject.reference_logits()
    return _different(subject, subject.logits(), without, "the norms of Q and K")


def rope_scaling(subject: CheckInput) -> Outcome:
    """Rotary frequencies are stretched, where the config says so."""
    scaling = subject.facts.rope_scaling
    if scaling is None:
        return not_applicable("Rotary frequencies are not stretched.")
    kind = str(scaling.get("rope_type", scaling.get("type")))
    if kind in ("dynamic", "longrope"):
        return not_applicable(f"The stretching is {kind}: it sets in beyond the trained context.")
    turning = [each for each in subject.reference.modules() if hasattr(each, "inv_freq")]
    if not turning or not hasattr(subject.model, "original_model"):
        return not_applicable(f"The stretching ({kind}) cannot be taken out here.")
    # Far apart, where slow frequencies have turned.
    length = subject.ids.shape[1]
    positions = torch.linspace(0, subject.facts.context - 1, length).long()[None]
    positions = positions.to(subject.ids.device)
    with _unstretched(turning, float(subject.facts.rope_base or 1e4)):
        without = subject.reference_logits(position_ids=positions)
    ours = subject.logits(position_ids=positions)
    return _different(subject, ours, without, f"the stretching of rotary frequencies ({kind})")


def _different(
    subject: CheckInput, ours: torch.Tensor, without: torch.Tensor, part: str
) -> Outcome:
    return at_least(
        logit_floor(subject.facts.dtype, ours),
        float((ours - without).abs().max()),
        f"Largest difference of a logit to Hugging Face's model without {part}: with them at work "
        "there is some.",
    )


def _passing(module: Any, given: Any, normalised: Any) -> Any:
    return given[0]


@contextmanager
def _zeroed(parameters: list[Any]) -> Iterator[None]:
    kept = [parameter.detach().clone() for parameter in parameters]
    try:
        with torch.no_grad():
            for parameter in parameters:
                parameter.zero_()
        yield
    finally:
        with torch.no_grad():
            for parameter, values in zip(parameters, kept, strict=True):
                parameter.copy_(values)


@contextmanager
def _unstretched(turning: list[Any], base: float) -> Iterator[None]:
    kept = [(each.inv_freq, getattr(each, "attention_scaling", 1.0)) for each in turning]
    try:
        for each in turning:
            share = torch.arange(len(each.inv_freq), device=each.inv_freq.device)
            each.inv_freq = base ** -(share / len(each.inv_freq)).to(each.inv_freq)
            each.attention_scaling = 1.0
        yield
    finally:
        for each, (frequencies, attention_scaling) in zip(turning, kept, strict=True):
            each.inv_freq, each.attention_scaling = frequencies, attention_scaling


_TOKENS = 24


def positions_shifted(subject: CheckInput) -> Outcome:
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


def positions_stretched(subject: CheckInput) -> Outcome:
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


def _cannot_be_told(subject: CheckInput) -> Outcome | None:
    if subject.facts.positional not in ("rotary", "learned"):
        return not_applicable(f"Positions are {subject.facts.positional}: there are none to move.")
    if not subject.attention_layers():
        return not_applicable("The model has no attention pattern to see them in.")
    if not hasattr(subject.model, "original_model"):
        return not_applicable("A HookedTransformer cannot be given positions: load a bridge.")
    return None


def _change(subject: CheckInput, these: Tensor, those: Tensor) -> float:
    ids = subject.ids[:, : len(these)]
    first, second = (_patterns(subject.model, ids, positions) for positions in (these, those))
    return _farthest(first, second)


def _off_reference(subject: CheckInput, positions: Tensor) -> float:
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
