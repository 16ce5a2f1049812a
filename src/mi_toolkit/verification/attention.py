"""Whether attention is attention: rows that sum to 1, on keys that may be seen, as computed."""

from __future__ import annotations

import torch
from torch import Tensor

from mi_toolkit.attention_masks import sights
from mi_toolkit.floors import ATTENTION, ROW_SUMS
from mi_toolkit.heads.patterns import visit_patterns
from mi_toolkit.hooked_model import attention_layers
from mi_toolkit.sight import sees
from mi_toolkit.verification.outcome import Outcome, at_most, not_applicable
from mi_toolkit.verification.subject import Subject


def attention_rows(subject: Subject) -> Outcome:
    """Each row of each head's pattern is a distribution."""
    worst = 0.0

    def look(_: int, patterns: Tensor) -> None:
        nonlocal worst
        off = (patterns.double().sum(dim=-1) - 1).abs().max()
        # A row that is no number at all is worse than any.
        worst = max(worst, float(off.nan_to_num(torch.inf)))

    visit_patterns(subject.model, subject.ids, attention_layers(subject.model), look)
    return at_most(
        ROW_SUMS[subject.facts.dtype], worst, "Largest distance of a row's sum from 1, in any head."
    )


def attention_mask(subject: Subject) -> Outcome:
    """Nothing is seen of what the layer's mask hides: later keys, or those before its window."""
    length = subject.ids.shape[1]
    query, key = torch.arange(length)[:, None], torch.arange(length)
    windows, worst = subject.facts.windows, 0.0
    layers = attention_layers(subject.model)
    seen = sights(subject.model, layers, windows, length)

    def look(layer: int, patterns: Tensor) -> None:
        nonlocal worst
        hidden = ~sees(seen[layer], *torch.broadcast_tensors(query, key))
        worst = max(worst, float(patterns.double().cpu()[..., hidden].abs().max()))

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
    with torch.no_grad():
        found = subject.reference(subject.ids, output_attentions=True, use_cache=False).attentions
    if not found or any(each is None for each in found):
        return not_applicable("Hugging Face does not give this model's attention.")
    worst = 0.0

    def look(layer: int, patterns: Tensor) -> None:
        nonlocal worst
        worst = max(worst, float((patterns.float() - found[layer].float()).abs().max()))

    layers = attention_layers(subject.model)
    visit_patterns(subject.model, subject.ids, layers, look)
    return at_most(
        ATTENTION[subject.facts.dtype],
        worst,
        f"Largest difference of an attention weight to Hugging Face's own, over {len(layers)} "
        "layers.",
    )
