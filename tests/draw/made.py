"""Reports and views with figures chosen by hand, without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mi_toolkit.core.head import Head
from mi_toolkit.core.provenance import Provenance
from mi_toolkit.core.tokens import from_sequences
from mi_toolkit.draw.attention import AttentionView
from mi_toolkit.heads.behaviours import BEHAVIOURS
from mi_toolkit.heads.labels import BarFigures, label_heads, label_names, scope_of_heads
from mi_toolkit.heads.report import HeadReport

NULL = 0.2
HALF_WIDTH = 0.05


def made_report(
    figures: Mapping[str, Tensor],
    *,
    windows: Sequence[int | None] | None = None,
    model: str = "made",
) -> HeadReport:
    """A report in which each behaviour has the given lift or value; all NaN: not applicable."""
    names = [name for name in BEHAVIOURS if name in figures]
    values = torch.stack([figures[name] for name in names])
    facts = {name: BEHAVIOURS[name].facts for name in names}
    is_mask = torch.tensor([facts[name].has_chance for name in names])
    null = torch.where(is_mask[:, None, None], NULL, torch.nan).expand_as(values).clone()
    low, high = values - HALF_WIDTH, values + HALF_WIDTH
    score = torch.where(is_mask[:, None, None], values * (1 - NULL) + NULL, values)
    n_layers, n_heads = values.shape[1:]
    coverage = torch.ones(n_layers, n_heads)
    p = torch.where(values.isnan(), torch.nan, torch.zeros_like(values))
    bar = zip(score, low, high, p, strict=True)
    by_name = {name: BarFigures(*figures) for name, figures in zip(names, bar, strict=True)}
    locality = by_name.get("locality")
    unknown = torch.full_like(coverage, torch.nan)
    nowhere = torch.full_like(values, torch.nan)
    applicable = {name: not bool(figures[name].isnan().all()) for name in names}
    return HeadReport(
        behaviours=tuple(names),
        facts=facts,
        score=score,
        null=null,
        lift=torch.where(is_mask[:, None, None], values, torch.nan),
        ci_low=low,
        ci_high=high,
        head_queries=torch.where(values.isnan(), 0, 100),  # nothing to measure
        coverage=coverage,
        copying=nowhere,
        copying_low=nowhere,
        copying_high=nowhere,
        p=p,
        labels=label_heads(
            by_name,
            dict.fromkeys(names, (unknown, unknown)),
            facts,
            min_lift=0.3,
            fdr=None,
        ),
        label_names=label_names(facts),
        scope=scope_of_heads(
            unknown if locality is None else locality.ci_low,
            unknown if locality is None else locality.ci_high,
            coverage,
        ),
        windows=tuple(windows or [None] * n_layers),
        applicable=applicable,
        interval={
            name: "jackknife over texts" if applicable[name] else "not applicable" for name in names
        },
        n_sequences=dict.fromkeys(names, 8),
        n_queries=dict.fromkeys(names, 100),
        stimulus=dict.fromkeys(names, "prompt"),
        min_lift=0.3,
        fdr=None,
        n_kv_heads=n_heads,
        provenance=Provenance(
            model=model,
            revision=None,
            backend="TransformerBridge",
            dtype="float32",
            seed=0,
            bos={"prompt": "own"},
            bos_id=0,
            prompts={},
            versions={"mi-toolkit": "0"},
        ),
        tokens={"prompt": from_sequences([[0, 1, 2]] * 8, 0)},
        parts={},
    )


def made_view(tokens: Sequence[str], n_heads: int = 2, *, model: str = "made") -> AttentionView:
    """Heads of layer 3: each looks back by its number, and at the first token before that."""
    n = len(tokens)
    patterns = torch.zeros(n_heads, n, n)
    for head in range(n_heads):
        for query in range(n):
            patterns[head, query, max(0, query - head)] = 1
    return AttentionView(
        model=model,
        tokens=tuple(tokens),
        heads=tuple(Head(3, head) for head in range(n_heads)),
        patterns=patterns,
    )
