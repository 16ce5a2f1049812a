"""Whether keys and values are kept, in the right shape, and worth as much as computed anew."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mi_toolkit.floors import logit_floor
from mi_toolkit.hooked_model import HookedModel, evaluating
from mi_toolkit.transformer_lens_door import key_value_cache
from mi_toolkit.verification.outcome import Outcome, at_most, not_applicable
from mi_toolkit.verification.subject import Subject

STEPS = 8


def cache_shape(subject: Subject) -> Outcome:
    """Each layer keeps a key and a value per KV head and position, one more with each token."""
    facts, ids = subject.facts, subject.ids
    with evaluating(subject.model), torch.no_grad():
        _, cache = _run(subject.model, ids[:, :-1], None)
        before = _shapes(cache)
        _, cache = _run(subject.model, ids[:, -1:], cache)
        after = _shapes(cache)
    if before is None or after is None:
        return not_applicable("The model keeps something else than a key and a value per position.")
    wrong = []
    for layer, window in enumerate(facts.windows):
        for shapes, length in ((before, ids.shape[1] - 1), (after, ids.shape[1])):
            # A windowed layer may drop what no later token sees.
            kept = {length} if window is None else {length, min(length, window - 1)}
            fits = [(1, facts.n_kv_heads, n, facts.d_head) for n in kept]
            if layer >= len(shapes) or not all(shape in fits for shape in shapes[layer]):
                wrong.append(layer)
    shared = f", {facts.n_heads} query heads over them" if facts.n_heads != facts.n_kv_heads else ""
    return at_most(
        0.0,
        float(len(set(wrong))),
        f"Layers of {facts.n_layers} whose keys or values are not {facts.n_kv_heads} KV heads × "
        f"positions × {facts.d_head}{shared}, or do not grow with a token."
        + (f" Layer {wrong[0]} is the first." if wrong else ""),
    )


def cache_steps(subject: Subject) -> Outcome:
    """Token by token on what was kept gives the logits of the whole text at once."""
    whole, ids = subject.logits(), subject.ids
    start = ids.shape[1] - STEPS
    with evaluating(subject.model), torch.no_grad():
        _, cache = _run(subject.model, ids[:, :start], None)
        rows = []
        for place in range(start, ids.shape[1]):
            row, cache = _run(subject.model, ids[:, place : place + 1], cache)
            rows.append(row[0, -1].float().cpu())
    return at_most(
        logit_floor(subject.facts.dtype, whole),
        float((torch.stack(rows) - whole[start:]).abs().max()),
        f"Largest difference of a logit over {STEPS} tokens, one by one behind {start} kept ones.",
    )


def _run(model: HookedModel, ids: Tensor, cache: Any) -> tuple[Tensor, Any]:
    wrapped = getattr(model, "original_model", None)
    if wrapped is None:
        cache = key_value_cache(model, 1) if cache is None else cache
        return model(ids, return_type="logits", past_kv_cache=cache), cache
    out = wrapped(input_ids=ids, past_key_values=cache, use_cache=True)
    return out.logits, out.past_key_values


def _shapes(cache: Any) -> list[list[tuple[int, ...]]] | None:
    """Shapes of the keys and the values of each layer, `[batch, KV head, position, d_head]`."""
    entries = getattr(cache, "entries", None)
    if entries is not None:
        pairs = [
            (entry.past_keys.transpose(1, 2), entry.past_values.transpose(1, 2))
            for entry in entries
        ]
    else:
        layers = getattr(cache, "layers", [])
        if not layers or any(getattr(layer, "keys", None) is None for layer in layers):
            return None
        pairs = [(layer.keys, layer.values) for layer in layers]
    return [[tuple(keys.shape), tuple(values.shape)] for keys, values in pairs]
