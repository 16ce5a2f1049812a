"""Export to HeadVis, Anthropic's static browser of attention heads.

The format is the contract in the docstrings of `data_pipeline.py` of github.com/anthropics/headvis
(Apache-2.0, May 2026; "HeadVis: An Interactive Tool For Investigating Attention Heads",
transformer-circuits.pub/2026/headvis), read next to what its frontend does with each field
(`src/lib/data.js`, `sparse.js`, `MetricsTab.svelte`). Serve the folder as `data/` next to `dist/`.

1. `config.json` names the heads and the metrics; `scatter_data.json` has a row of metrics per head:
   every behaviour's lift or value. A head without a figure has null there.
2. `heads/L{layer}H{head}.json` has sequences with their attention, sparse: indices
   `query * length + key`, up to eight keys per query from 0.005 on, four decimals.
3. A sequence's activation is its highest attention off the diagonal, row 0 and column 0 left out as
   the frontend leaves them out; sequences are cut into ten intervals by it, 10 the highest.

Left out: projections (`umap/`; `has_umap` says so), and attributions and live prompts, which need
HeadVis' own server. HeadVis draws intervals from a large data set; here it is the natural passages.
"""

from __future__ import annotations

import json
import math
import os
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mi_toolkit.core.errors import unknown_name
from mi_toolkit.core.head import Head
from mi_toolkit.core.io import atomic_write
from mi_toolkit.core.model import HookedModel, attention_layers
from mi_toolkit.core.passes import visit_patterns
from mi_toolkit.core.tokens import TokenBatch
from mi_toolkit.core.vocabulary import require_tokenizer
from mi_toolkit.heads.report import HeadReport

N_INTERVALS = 10
KEYS_PER_QUERY = 8
THRESHOLD = 0.005
TOP_TOKENS = 50
DISTANCE_EDGES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
BATCH = 8


def export_headvis(
    model: HookedModel,
    report: HeadReport,
    folder: str | os.PathLike[str],
    *,
    heads: Iterable[Head | tuple[int, int] | str] | None = None,
) -> None:
    """Write a report, and the heads' attention on natural text, as HeadVis reads it.

    Args:
        model: the model that the report is of.
        report: a report; its sequences of natural text are shown, or those of its one stimulus.
        folder: becomes HeadVis' `data/`; `config.json` is written last.
        heads: which heads to export; None for all. A head takes about 0.3 MB for 64 passages.

    Raises:
        ReportError: the report is of another model.
        PromptError: the model has no tokenizer: HeadVis shows texts.
        UnknownNameError: a head that the model does not have.
        HookError: a layer's pattern did not show.
    """
    report.check_model(model)
    require_tokenizer(model, "the tokens that HeadVis shows")
    place = Path(folder)
    chosen = _chosen(model, report, heads)
    batch = report.tokens.get("natural") or next(iter(report.tokens.values()))
    for layer in sorted({head.layer for head in chosen}):
        wanted = [head.head for head in chosen if head.layer == layer]
        found = _sequences(model, batch, layer, wanted)
        for head, sequences in found.items():
            _write(place / "heads" / f"L{layer}H{head}.json", _head_record(sequences))
    metrics = _metrics(report)
    _write(place / "scatter_data.json", [_scatter_row(report, metrics, head) for head in chosen])
    _write(place / "server_config.json", {})
    _write(place / "attributions" / "manifest.json", {})
    _write(place / "config.json", _config(report, chosen, metrics))


def sparse_attention(
    pattern: Float[Tensor, "query key"],
) -> tuple[list[int], list[float]]:
    """Flat indices and values of the strongest keys of each query, in ascending order."""
    n = len(pattern)
    values, keys = pattern.topk(min(KEYS_PER_QUERY, n), dim=-1)
    kept = values >= THRESHOLD
    indices = (torch.arange(n)[:, None] * n + keys)[kept]
    order = indices.argsort()
    # In float64: a float32 rounded to four decimals is written with sixteen.
    rounded = values[kept][order].double().mul(1e4).round().div(1e4)
    return indices[order].tolist(), rounded.tolist()


def max_activation(pattern: Float[Tensor, "query key"]) -> float:
    """The highest attention off the diagonal, the first row and the first column left out."""
    off_diagonal = pattern.masked_fill(torch.eye(len(pattern), dtype=torch.bool), 0.0)
    inner = off_diagonal[1:, 1:]
    return float(inner.max()) if inner.numel() else 0.0


def intervals(activations: Sequence[float]) -> list[int]:
    """Each sequence's tenth by its activation, 1 to 10: equal parts, 10 the highest.

    Sequences of exactly one activation are in one interval, the highest that any would be in.

    >>> intervals([0.1, 0.9, 0.5, 0.3])
    [3, 10, 8, 5]
    >>> intervals([0.0, 1.0, 0.0, 1.0])
    [5, 10, 5, 10]
    """
    ascending, n = sorted(activations), len(activations)
    return [math.ceil(bisect_right(ascending, each) * N_INTERVALS / n) for each in activations]


def _chosen(
    model: HookedModel, report: HeadReport, heads: Iterable[Head | tuple[int, int] | str] | None
) -> list[Head]:
    known = [Head(l, h) for l in attention_layers(model) for h in range(report.scope.shape[1])]
    if heads is None:
        return known
    asked = [Head.of(head) for head in heads]
    for head in asked:
        if head not in known:
            raise unknown_name("attention head of this model", str(head), map(str, known))
    return sorted(set(asked))


def _sequences(
    model: HookedModel, batch: TokenBatch, layer: int, heads: Sequence[int]
) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {head: [] for head in heads}
    for start in range(0, len(batch), BATCH):
        part = batch.part(start, min(start + BATCH, len(batch)))

        def keep(_: int, patterns: Tensor, start: int = start, part: TokenBatch = part) -> None:
            for row in range(len(part)):
                n = int(part.lengths[row])
                shown = patterns[row, :, :n, :n].detach().float().cpu()
                tokens = _tokens(model, part.sequence(row))
                for head in heads:
                    found[head].append(_sequence(start + row, tokens, shown[head]))

        visit_patterns(model, part.ids, [layer], keep)
    for sequences in found.values():
        tenths = intervals([sequence["max_activation"] for sequence in sequences])
        for sequence, tenth in zip(sequences, tenths, strict=True):
            sequence["interval"] = tenth
            # Ranked as it is, written short: most of a head's may be within 1e-4 of 0 or of 1.
            sequence["max_activation"] = round(sequence["max_activation"], 4)
    return found


def _tokens(model: HookedModel, ids: Tensor) -> list[str]:
    return [model.tokenizer.decode([int(token)]) for token in ids]


def _sequence(index: int, tokens: list[str], pattern: Tensor) -> dict[str, Any]:
    indices, values = sparse_attention(pattern)
    return {
        "sequence_id": index,
        "tokens": tokens,
        "attention_indices": indices,
        "attention_values": values,
        "seq_len": len(tokens),
        "max_activation": max_activation(pattern),
    }


def _head_record(sequences: Sequence[dict[str, Any]]) -> dict[str, Any]:
    counts = [0] * (len(DISTANCE_EDGES) - 1)
    on_query: dict[str, float] = {}
    on_key: dict[str, float] = {}
    for sequence in sequences:
        n, tokens = sequence["seq_len"], sequence["tokens"]
        pairs = zip(sequence["attention_indices"], sequence["attention_values"], strict=True)
        for index, value in pairs:
            query, key = divmod(index, n)
            if query == 0 or key == 0:
                continue
            place = sum(edge <= query - key for edge in DISTANCE_EDGES) - 1
            counts[min(place, len(counts) - 1)] += 1
            on_query[tokens[query]] = on_query.get(tokens[query], 0.0) + value
            on_key[tokens[key]] = on_key.get(tokens[key], 0.0) + value
    return {
        "sequences": list(sequences),
        "qk_distance_histogram": {"bin_edges": list(DISTANCE_EDGES), "bin_values": counts},
        "top_query_tokens": _ranked(on_query),
        "top_key_tokens": _ranked(on_key),
        "histogram": {},
        "statistics": {},
    }


def _ranked(weights: dict[str, float]) -> list[dict[str, Any]]:
    total = sum(weights.values()) or 1.0
    ranked = sorted(weights.items(), key=lambda item: (-item[1], item[0]))[:TOP_TOKENS]
    return [{"token": token, "weight": round(weight / total, 4)} for token, weight in ranked]


def _metrics(report: HeadReport) -> dict[str, str]:
    """The behaviours with any figure, by what the axis says of them.

    The frontend takes its axes from the first row: it is given no column without figures.
    """
    return {
        name: f"{'lift over chance' if facts.has_chance else 'value'}: {facts.meaning}, "
        f"on {report.stimulus[name]}"
        for name, facts in report.facts.items()
        if report[name].isfinite().any()
    }


def _scatter_row(report: HeadReport, metrics: Iterable[str], head: Head) -> dict[str, Any]:
    figures = {name: float(report[name][head]) for name in metrics}
    return {
        "layer": head.layer,
        "head": head.head,
        **{k: round(v, 4) if math.isfinite(v) else None for k, v in figures.items()},
    }


def _config(report: HeadReport, heads: Sequence[Head], metrics: dict[str, str]) -> dict[str, Any]:
    n_layers, n_heads = report.scope.shape
    return {
        "model_name": report.provenance.model,
        "heads": [[head.layer, head.head] for head in heads],
        "n_layers": n_layers,
        "n_heads": n_heads,
        "n_intervals": N_INTERVALS,
        "metrics": list(metrics),
        "metric_descriptions": metrics,
        "head_data_pattern": "L{layer}H{head}.json",
        "has_umap": False,
        "umap_heads": [],
        "custom_plots": [{"key": "qk_distance_histogram", "label": "Query-key distance"}],
        "custom_tables": [
            {"key": "top_query_tokens", "label": "Top query tokens"},
            {"key": "top_key_tokens", "label": "Top key tokens"},
        ],
        "statistics_display": {},
    }


def _write(path: Path, content: Any) -> None:
    with atomic_write(path) as draft:
        draft.write_text(
            json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")),
            encoding="utf-8",
        )
