"""A report held against the formulas of `reference`, on Hugging Face's own attentions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.tokens import TokenBatch
from mi_toolkit.heads.classify import classify_heads
from tests import reference

MASKS = ["previous_token", "current_token", "first_token", "duplicate_token", "induction"]
FIGURES = ("score", "null", "lift", "ci_low", "ci_high", "coverage")


def hf_patterns(hf_model: PreTrainedModel, batch: TokenBatch) -> list[np.ndarray]:
    """Each sequence's attentions, `[layer head query key]`, one sequence at a time."""
    found = []
    for index in range(len(batch)):
        with torch.no_grad():
            out = hf_model(batch.sequence(index)[None], output_attentions=True)
        found.append(torch.stack(out.attentions)[:, 0].double().numpy())
    return found


def fed(batch: TokenBatch) -> Callable[..., TokenBatch]:
    """In place of `tokenise`: sequences of unequal length, which no public prompt of ids has."""
    return lambda *_, **__: batch


def assert_report_equals_formulas(
    model: HookedModel,
    patterns: list[np.ndarray],
    batch: TokenBatch,
    monkeypatch: pytest.MonkeyPatch,
    *,
    heads: Iterable[int] | None = None,
    tolerance: float = 1e-4,
) -> None:
    """Every score, null and coverage of the given heads, in every layer."""
    monkeypatch.setattr("mi_toolkit.heads.classify.tokenise", fed(batch))
    report = classify_heads(model, "", batch_size=2)
    tokens = [batch.sequence(index).tolist() for index in range(len(batch))]
    close: dict[str, Any] = {"abs": tolerance, "nan_ok": True}
    for layer, window in enumerate(report.windows):
        for head in range(report.scope.shape[1]) if heads is None else heads:
            rows = [pattern[layer, head] for pattern in patterns]
            local, coverage = reference.locality(rows)
            wanted = {
                name: reference.mask_behaviour(name, rows, tokens, batch.bos_id, window)
                for name in MASKS
            } | {
                "locality": (local, math.nan),
                "positional": (reference.positional(rows), math.nan),
                "diffuse": (reference.diffuse(rows, window), math.nan),
            }
            for name, (score, null) in wanted.items():
                cell = report.index(name), layer, head
                assert float(report.score[cell]) == pytest.approx(score, **close), (name, cell)
                assert float(report.null[cell]) == pytest.approx(null, **close), (name, cell)
            assert float(report.coverage[layer, head]) == pytest.approx(coverage, abs=1e-6)
