"""A pipeline's stages as records, for tables and JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from mi_toolkit.errors import ReportError
from mi_toolkit.heads.head import Head
from mi_toolkit.pipeline.pipeline import Pipeline
from mi_toolkit.pipeline.stages import LensStage


def token_rows(traced: Pipeline) -> Iterator[dict[str, Any]]:
    """Each token with its embedding: norms, and the tokens whose embeddings are nearest."""
    stage, embedding = traced.tokens, traced.embedding
    positions = embedding.position_norms
    for position, (token, text) in enumerate(zip(stage.ids.tolist(), stage.texts, strict=True)):
        cosines = embedding.nearest_cosines[position].tolist()
        near = zip(embedding.nearest_ids[position].tolist(), cosines, strict=True)
        yield {
            "position": position,
            "id": token,
            "token": text,
            "token_norm": float(embedding.token_norms[position]),
            "position_norm": None if positions is None else float(positions[position]),
            "input_norm": float(embedding.input_norms[position]),
            "nearest": "  ".join(f"{traced.texts[each]!r} {cosine:.2f}" for each, cosine in near),
        }


def attention_rows(traced: Pipeline) -> Iterator[dict[str, Any]]:
    """Each head with its labels, and how spread its attention is."""
    stage = traced.attention
    for row, layer in enumerate(stage.layers):
        for head, entropy in enumerate(stage.entropies[row].tolist()):
            yield {
                "layer": layer,
                "head": head,
                "labels": " ".join(stage.labels_of((layer, head))),
                "entropy": entropy,
                "labelled_on": stage.labelled_on,
            }


def pattern_rows(traced: Pipeline, head: Head) -> Iterator[dict[str, Any]]:
    """One head's attention, from each token to each that it may look at."""
    texts = traced.tokens.texts
    for query, row in enumerate(traced.attention.pattern(head).tolist()):
        for key, attention in enumerate(row[: query + 1]):
            yield {
                "head": str(head),
                "query": query,
                "query_token": texts[query],
                "key": key,
                "key_token": texts[key],
                "attention": attention,
            }


def mlp_rows(traced: Pipeline) -> Iterator[dict[str, Any]]:
    """Each layer's most active neurons, and where they are that."""
    stage = traced.mlp
    for row, layer in enumerate(stage.layers):
        for rank, neuron in enumerate(stage.neurons[row].tolist()):
            position = int(stage.positions[row, rank])
            yield {
                "layer": layer,
                "rank": rank + 1,
                "neuron": neuron,
                "position": position,
                "token": traced.tokens.texts[position],
                "activation": float(stage.activations[row, rank]),
                "mean_norm": float(stage.norms[row].mean()),
            }


def output_rows(traced: Pipeline) -> Iterator[dict[str, Any]]:
    """The most probable next tokens behind every position."""
    stage = traced.output
    following = [*traced.tokens.ids[1:].tolist(), None]
    for position, text in enumerate(traced.tokens.texts):
        choices = zip(
            stage.top_ids[position].tolist(), stage.top_log_probs[position].tolist(), strict=True
        )
        for rank, (token, log_prob) in enumerate(choices, start=1):
            yield {
                "position": position,
                "token": text,
                "rank": rank,
                "next_id": token,
                "next": traced.texts[token],
                "log_prob": log_prob,
                "probability": math.exp(log_prob),
                "comes_next": token == following[position],
            }


def lens_rows(traced: Pipeline) -> Iterator[dict[str, Any]]:
    """What each layer would predict behind every position, and how far that is from the end."""
    lens = lens_of(traced)
    for entry, name in enumerate(lens.names):
        for position, text in enumerate(traced.tokens.texts):
            token = int(lens.top_ids[entry, position, 0])
            yield {
                "behind": name,
                "position": position,
                "token": text,
                "next_id": token,
                "next": traced.texts[token],
                "probability": math.exp(float(lens.top_log_probs[entry, position, 0])),
                "final_rank": int(lens.final_ranks[entry, position]),
                "final_log_prob": float(lens.final_log_probs[entry, position]),
                "divergence": float(lens.divergences[entry, position]),
            }


def lens_of(traced: Pipeline) -> LensStage:
    """The lens.

    Raises:
        ReportError: it was traced without.
    """
    if traced.output.lens is None:
        raise ReportError("This pipeline has no lens: trace it with lens=True.")
    return traced.output.lens


ROWS: Mapping[str, Callable[[Pipeline], Iterator[dict[str, Any]]]] = MappingProxyType(
    {
        "tokens": token_rows,
        "attention": attention_rows,
        "mlp": mlp_rows,
        "output": output_rows,
        "lens": lens_rows,
    }
)
"""The stages' rows by name."""
