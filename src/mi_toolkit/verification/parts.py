"""Whether parts that only some families have are at work: biases, norms of Q and K, stretched RoPE.

That the logits equal Hugging Face's says little of a part that does nothing. So the part is taken
out of the reference: the hooked model, which has it, has to differ from that.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from mi_toolkit.floors import logit_floor
from mi_toolkit.models.describe import QK_NORM, QKV_BIAS
from mi_toolkit.verification.outcome import Outcome, at_least, not_applicable
from mi_toolkit.verification.subject import Subject


def qkv_bias(subject: Subject) -> Outcome:
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


def qk_norm(subject: Subject) -> Outcome:
    """Queries and keys are normalised, where the family does it."""
    norms = [
        module
        for name, module in subject.reference.named_modules()
        if QK_NORM.search(f"{name}.") and not list(module.children())
    ]
    if not norms:
        return not_applicable("The family does not normalise queries and keys.")
    handles = [module.register_forward_hook(_passing) for module in norms]
    try:
        without = subject.reference_logits()
    finally:
        for handle in handles:
            handle.remove()
    return _different(subject, subject.logits(), without, "the norms of Q and K")


def rope_scaling(subject: Subject) -> Outcome:
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


def _different(subject: Subject, ours: torch.Tensor, without: torch.Tensor, part: str) -> Outcome:
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
