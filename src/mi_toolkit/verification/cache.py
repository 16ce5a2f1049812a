"""Whether keys and values are kept, in the right shape, and worth as much as computed anew."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.floors import logit_floor
from mi_toolkit.hooked_model import evaluating
from mi_toolkit.transformer_lens_door import key_value_cache
from mi_toolkit.verification.outcome import Outcome, at_most, not_applicable
from mi_toolkit.verification.subject import Subject

STEPS = 8

_CACHES = ("past_key_values", "cache_params", "state")
"""What families call what they keep."""


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
    config = subject.reference.config.get_text_config()
    widths = _widths(config, facts.d_head)
    for layer, window in enumerate(_reach(config, facts.windows)):
        for shapes, length in ((before, ids.shape[1] - 1), (after, ids.shape[1])):
            # A windowed layer may drop what no later token sees.
            kept = {length} if window is None else {length, min(length, window - 1)}
            fits = [[(1, facts.n_kv_heads, n, width) for width in widths] for n in kept]
            if layer >= len(shapes) or shapes[layer] not in fits:
                wrong.append(layer)
    shared = f", {facts.n_heads} query heads over them" if facts.n_heads != facts.n_kv_heads else ""
    return at_most(
        0.0,
        float(len(set(wrong))),
        f"Layers of {facts.n_layers} whose keys or values are not {facts.n_kv_heads} KV heads × "
        f"positions × {' and '.join(map(str, sorted(set(widths))))}{shared}, or do not grow with a "
        "token." + (f" Layer {wrong[0]} is the first." if wrong else ""),
    )


def cache_steps(subject: Subject) -> Outcome:
    """Token by token on what was kept gives the logits of the whole text at once."""
    whole, start = subject.logits(), subject.ids.shape[1] - STEPS
    with evaluating(subject.model):
        rows = _steps(subject.model, subject.ids, start)
    if rows is None:
        return not_applicable("The model gives nothing back to go on from.")
    limit = logit_floor(subject.facts.dtype, whole)
    off = float((rows - whole[start:]).abs().max())
    what = f"Largest difference of a logit over {STEPS} tokens, one by one after {start} kept ones"
    theirs = None if off <= limit else _steps(subject.reference, subject.ids, start)
    if theirs is None or (theirs - subject.reference_logits()[start:]).abs().max() <= limit:
        return at_most(limit, off, f"{what}.")
    return at_most(
        limit,
        float((rows - theirs).abs().max()),
        f"{what}, to Hugging Face's own: in this family (where tokens look ahead, say) those "
        f"differ by {off:.2g} from the whole text's.",
    )


def _steps(
    model: Any, ids: Int[Tensor, "1 position"], start: int
) -> Float[Tensor, "step vocabulary"] | None:
    """The logits of the tokens from `start` on, one by one; None where nothing is kept."""
    rows = []
    with torch.no_grad():
        _, cache = _run(model, ids[:, :start], None)
        for place in range(start, ids.shape[1]):
            if cache is None:
                return None
            row, cache = _run(model, ids[:, place : place + 1], cache)
            rows.append(row[0, -1].float().cpu())
    return torch.stack(rows)


def _run(model: Any, ids: Tensor, cache: Any) -> tuple[Tensor, Any]:
    if hasattr(model, "cfg") and not hasattr(model, "original_model"):  # a HookedTransformer
        cache = key_value_cache(model, 1) if cache is None else cache
        return model(ids, return_type="logits", past_kv_cache=cache), cache
    given = {} if cache is None else {cache[0]: cache[1]}
    out = getattr(model, "original_model", model)(input_ids=ids, use_cache=True, **given)
    kept = [(name, out[name]) for name in _CACHES if out.get(name) is not None]
    return out.logits, kept[0] if kept else None


def _shapes(kept: Any) -> list[list[tuple[int, ...]]] | None:
    """Shapes of the keys and the values of each layer, `[batch, KV head, position, d_head]`."""
    cache = kept[1] if isinstance(kept, tuple) else kept
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


def _reach(config: Any, windows: tuple[int | None, ...]) -> list[int | None]:
    """How far back each layer looks at most: its window, or its chunk (Llama 4)."""
    kinds = getattr(config, "layer_types", None) or [None] * len(windows)
    chunk = getattr(config, "attention_chunk_size", None)
    return [
        chunk if kind == "chunked_attention" else window
        for kind, window in zip(kinds, windows, strict=True)
    ]


def _widths(config: Any, d_head: int) -> tuple[int, int]:
    """The width of a key and of a value, which multi-head latent attention has apart."""
    keys = [int(getattr(config, f"qk_{part}_head_dim", 0) or 0) for part in ("nope", "rope")]
    return sum(keys) if all(keys) else d_head, int(getattr(config, "v_head_dim", 0) or d_head)
