"""Whether attention is attention: rows that sum to 1, on keys that may be seen, as computed."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from mi_toolkit.attention_masks import sights
from mi_toolkit.floors import ATTENTION, ROW_SUMS
from mi_toolkit.heads.patterns import visit_patterns
from mi_toolkit.sight import sees
from mi_toolkit.verification.outcome import Outcome, at_most, not_applicable
from mi_toolkit.verification.subject import Subject

_SINK = re.compile(r"\.(\d+)\.[\w.]*sink")
"""A parameter of a layer that takes a share of each row's attention without being a key."""

_NO_HEADS = not_applicable("The model has no attention heads.")


def attention_rows(subject: Subject) -> Outcome:
    """Each row of each head's pattern is a distribution, beside what the layer's sink takes."""
    layers = subject.attention_layers()
    if not layers:
        return _NO_HEADS
    named = (_SINK.search(name) for name, _ in subject.reference.named_parameters())
    with_sinks = {int(match[1]) for match in named if match}
    theirs = subject.reference_patterns() if with_sinks else {}
    if with_sinks.intersection(layers) - theirs.keys():
        return not_applicable("Hugging Face does not show what its sinks leave to the keys.")
    worst = 0.0

    def look(layer: int, patterns: Tensor) -> None:
        nonlocal worst
        wanted: Tensor | float = 1.0
        if layer in with_sinks:
            wanted = theirs[layer].double().sum(dim=-1)
        off = (patterns.double().sum(dim=-1) - wanted).abs().max()
        # A row that is no number at all is worse than any.
        worst = max(worst, float(off.nan_to_num(torch.inf)))

    visit_patterns(subject.model, subject.ids, layers, look)
    told = "."
    if with_sinks:
        told = f"; in {len(with_sinks)} layers with a sink, from what Hugging Face's rows leave it."
    return at_most(
        ROW_SUMS[subject.facts.dtype],
        worst,
        f"Largest distance of a row's sum from 1, in any head{told}",
    )


def attention_mask(subject: Subject) -> Outcome:
    """Nothing is seen of what the layer's mask hides: later keys, or those before its window."""
    length = subject.ids.shape[1]
    query, key = torch.arange(length)[:, None], torch.arange(length)
    windows, worst = subject.facts.windows, 0.0
    layers = subject.attention_layers()
    if not layers:
        return _NO_HEADS
    seen = sights(subject.model, layers, windows, length)

    def look(layer: int, patterns: Tensor) -> None:
        nonlocal worst
        hidden = ~sees(seen[layer], *torch.broadcast_tensors(query, key))
        if hidden.any():  # nothing is hidden where a layer looks both ways
            off = patterns.double().cpu()[..., hidden].abs().max()
            worst = max(worst, float(off.nan_to_num(torch.inf)))

    visit_patterns(subject.model, subject.ids, layers, look)
    declared = sorted({window for window in windows if window})
    reached = [window for window in declared if window < length]
    said = "No layer has a window."
    if declared:
        said = f"Windows of {_listed(declared)} tokens; the text of {length} goes beyond "
        said += f"{_listed(reached)}." if reached else "none of them."
    return at_most(0.0, worst, f"Largest attention to a key that must not be seen. {said}")


def _listed(windows: list[int]) -> str:
    return " and ".join(f"{window:,}" for window in windows)


def attention_patterns(subject: Subject) -> Outcome:
    """The patterns at the hooks are those that transformers computes."""
    found = subject.reference_patterns()
    layers = list(found)
    if not subject.attention_layers():
        return _NO_HEADS
    if not layers:
        return not_applicable("Hugging Face does not give this model's attention.")
    worst = 0.0

    def look(layer: int, patterns: Tensor) -> None:
        nonlocal worst
        off = (patterns.float() - found[layer].float()).abs().max()
        worst = max(worst, float(off.nan_to_num(torch.inf)))

    visit_patterns(subject.model, subject.ids, layers, look)
    return at_most(
        ATTENTION[subject.facts.dtype],
        worst,
        f"Largest difference of an attention weight to Hugging Face's own, over {len(layers)} "
        "layers.",
    )
