"""What a trained model shows: head scores on repeated random ids, completions, accuracies.

The one place that scores heads. The formulas are those of the library (score, null, lift over the
keys a layer may see), written on Hugging Face's `output_attentions`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

SEGMENT = 64
ROWS = 32


def repeated_random(vocabulary_size: int, seed: int = 0) -> Tensor:
    """BOS and 64 different random ids, twice; 32 rows."""
    generator = torch.Generator().manual_seed(seed)
    segments = [
        1 + torch.randperm(vocabulary_size - 1, generator=generator)[:SEGMENT] for _ in range(ROWS)
    ]
    return torch.stack([torch.cat([torch.zeros(1, dtype=torch.long), s, s]) for s in segments])


def windows(model: PreTrainedModel) -> list[int | None]:
    """The declared window of each layer; None where it sees everything."""
    kinds = getattr(model.config, "attention_layers", None)
    if kinds is None:
        return [None] * model.config.num_hidden_layers
    return [model.config.window_size if kind == "local" else None for kind in kinds]


def visible(length: int, window: int | None) -> Tensor:
    """True where a query (row) may see a key (column)."""
    distance = torch.arange(length)[:, None] - torch.arange(length)
    seen = distance >= 0
    return seen if window is None else seen & (distance < window)


def behaviour_masks(tokens: Tensor) -> dict[str, Tensor]:
    """Per behaviour, True on the keys that it names; `batch query key`, BOS at 0."""
    batch, length = tokens.shape
    position = torch.arange(length)
    distance = (position[:, None] - position).expand(batch, -1, -1)
    query, key = position[:, None], position
    same = (tokens[:, :, None] == tokens[:, None, :]) & (distance > 0) & (key > 0)
    after = torch.zeros_like(same)
    after[:, :, 1:] = same[:, :, :-1]
    return {
        "previous_token": (distance == 1) & (query >= 2),
        "current_token": (distance == 0) & (query >= 2),
        "first_token": ((key == 0) & (query >= 1)).expand(batch, -1, -1),
        "duplicate_token": same,
        "induction": after & (distance > 0),
    }


@torch.no_grad()
def attention(model: PreTrainedModel, tokens: Tensor) -> list[Tensor]:
    """Patterns of each layer, `batch head query key`."""
    outputs = model(input_ids=tokens, output_attentions=True, use_cache=False)
    return list(outputs.attentions)


def head_scores(model: PreTrainedModel, tokens: Tensor) -> list[dict[str, Any]]:
    """Score, null and lift of each behaviour and head; layers that cannot show it are left out."""
    records = []
    masks = behaviour_masks(tokens)
    patterns = attention(model, tokens)
    for layer, (pattern, window) in enumerate(zip(patterns, windows(model), strict=True)):
        seen = visible(tokens.shape[1], window)
        for behaviour, named in masks.items():
            mask = named & seen
            eligible = mask.any(-1)
            if not eligible.any():
                continue
            share = (mask.sum(-1) / seen.sum(-1))[eligible].mean().item()
            attended = (pattern * mask[:, None]).sum(-1)
            per_head = attended.transpose(0, 1)[:, eligible].mean(-1)
            records += [
                {
                    "behaviour": behaviour,
                    "head": f"L{layer}H{head}",
                    "score": round(score, 4),
                    "null": round(share, 4),
                    "lift": round((score - share) / (1 - share), 4),
                }
                for head, score in enumerate(per_head.tolist())
            ]
    return records


def locality(model: PreTrainedModel, tokens: Tensor) -> dict[str, float]:
    """Per head, one minus mean distance over that of uniform attention; the sink left out."""
    length = tokens.shape[1]
    position = torch.arange(length)
    excess = (position[:, None] - position - 1).clamp(min=0).float()
    uniform = visible(length, None).float()
    uniform[:, 0] = 0
    uniform = uniform / uniform.sum(-1, keepdim=True).clamp(min=1)
    values = {}
    for layer, pattern in enumerate(attention(model, tokens)):
        rest = pattern.clone()
        rest[..., 0] = 0
        mass = rest.sum(-1, keepdim=True)
        eligible = (mass[..., 0] >= 0.05) & (position >= 3)
        distance = (rest / mass.clamp(min=1e-9) * excess).sum(-1)
        chance = (uniform * excess).sum(-1).expand_as(distance)
        for head in range(pattern.shape[1]):
            rows = eligible[:, head]
            ratio = distance[:, head][rows].sum() / chance[:, head][rows].sum()
            values[f"L{layer}H{head}"] = round(1 - ratio.item(), 4)
    return values


def best_heads(records: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The head of highest lift for each behaviour."""
    best: dict[str, dict[str, Any]] = {}
    for record in records:
        kept = best.get(record["behaviour"])
        if kept is None or record["lift"] > kept["lift"]:
            best[record["behaviour"]] = record
    return best


@torch.no_grad()
def complete(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompt: str, new_tokens: int
) -> str:
    """The greedy continuation of BOS and `prompt`."""
    ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(prompt).input_ids]])
    for _ in range(new_tokens):
        logits = model(input_ids=ids, use_cache=False).logits[:, -1]
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
    return str(tokenizer.decode(ids[0, -new_tokens:]))


def last_word_accuracy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, sentences: list[str]
) -> float:
    """Share of sentences whose last word's first token is the likeliest after the rest."""
    right = 0
    for sentence in sentences:
        prompt, _, word = sentence.rstrip(".").rpartition(" ")
        expected = tokenizer.tokenize(f" {word}")[0]
        right += tokenizer.tokenize(complete(model, tokenizer, prompt, 1))[:1] == [expected]
    return round(right / len(sentences), 3)
