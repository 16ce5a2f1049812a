"""The table of checks: functions with one signature, in the order in which they are reported."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mi_toolkit.core.attention_masks import sights
from mi_toolkit.core.model import evaluating
from mi_toolkit.core.passes import visit_patterns
from mi_toolkit.core.sight import sees
from mi_toolkit.core.tl_compat import key_value_cache
from mi_toolkit.core.tolerances import ATTENTION, ROW_SUMS, logit_floor
from mi_toolkit.models.checkpoints import Loading
from mi_toolkit.verification.check_input import CheckInput, coherence_loss, coherence_repetition
from mi_toolkit.verification.outcome import Outcome, at_most, not_applicable
from mi_toolkit.verification.parts import (
    positions_shifted,
    positions_stretched,
    qk_norm,
    qkv_bias,
    rope_scaling,
)

_SINK = re.compile(r"\.(\d+)\.[\w.]*sink")
"""A parameter of a layer that takes a share of each row's attention without being a key."""

_NO_HEADS = not_applicable("The model has no attention heads.")


def attention_rows(subject: CheckInput) -> Outcome:
    """Each row of each head's pattern is a distribution, next to what the layer's sink takes."""
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


def attention_mask(subject: CheckInput) -> Outcome:
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


def attention_patterns(subject: CheckInput) -> Outcome:
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


STEPS = 8

_CACHES = ("past_key_values", "cache_params", "state")
"""What families call what they keep."""


def cache_shape(subject: CheckInput) -> Outcome:
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


def cache_steps(subject: CheckInput) -> Outcome:
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


def logits(subject: CheckInput) -> Outcome:
    """Logits on natural text equal those of the model that nothing wraps."""
    theirs, ours = subject.reference_logits(), subject.logits()
    agree = (theirs.argmax(dim=-1) == ours.argmax(dim=-1)).float().mean()
    return at_most(
        logit_floor(subject.facts.dtype, theirs),
        float((ours - theirs).abs().max()),
        f"Largest difference of a logit to Hugging Face's own on {len(theirs)} tokens of text; the "
        f"largest logit is {float(theirs.abs().max()):.1f}, and {float(agree):.0%} of the most "
        "probable tokens agree.",
    )


def weights(subject: CheckInput) -> Outcome:
    """No tensor of the model is made up, and none of the checkpoint is left over."""
    return weights_outcome(subject.loading)


def left_over_in_gguf(file: Path, model: nn.Module) -> tuple[str, ...]:
    """What a GGUF file holds more than the model; transformers skips it without a word.

    By number of values, which splitting and merging tensors leave as they are. Frequencies of
    rotary positions are no weights.
    """
    from gguf import GGUFReader

    held = sum(
        int(tensor.n_elements)
        for tensor in GGUFReader(file).tensors
        if not tensor.name.startswith("rope_freqs")
    )
    extra = held - sum(parameter.numel() for parameter in model.parameters())
    return (f"{extra:,} values of {file.name}",) if extra > 0 else ()


def weights_outcome(loading: Loading) -> Outcome:
    """The verdict on what transformers says of the loading; buffers do not count."""
    wrong = {
        "missing": loading.missing,
        "of another size": tuple(name for name, _, _ in loading.mismatched),
        "left over": loading.unused,
    }
    told = [
        f"{len(names)} {what} ({names[0]}{', …' if len(names) > 1 else ''})"
        for what, names in wrong.items()
        if names
    ]
    sentence = (
        f"Tensors that did not find their place: {', '.join(told)}."
        if told
        else "No tensor of the model is missing from the checkpoint, and none of it is left over."
    )
    return at_most(0.0, float(sum(map(len, wrong.values()))), sentence)


Check = Callable[[CheckInput], Outcome]

CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        "weights": weights,
        "logits": logits,
        "cache_shape": cache_shape,
        "cache_steps": cache_steps,
        "attention_rows": attention_rows,
        "attention_mask": attention_mask,
        "attention_patterns": attention_patterns,
        "positions_shifted": positions_shifted,
        "positions_stretched": positions_stretched,
        "qkv_bias": qkv_bias,
        "qk_norm": qk_norm,
        "rope_scaling": rope_scaling,
        "coherence_loss": coherence_loss,
        "coherence_repetition": coherence_repetition,
    }
)
"""The checks by name."""
