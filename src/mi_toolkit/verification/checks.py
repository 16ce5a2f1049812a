"""The table of checks: functions with one signature, in the order in which they are reported.

1. Whether parts that only some families have are at work: biases, norms of Q and K, stretched RoPE.
   That the logits equal Hugging Face's says little of a part that does nothing. So the part is
   taken out of the reference: the hooked model, which has it, has to differ from that.
2. Whether positions enter as the family has them. The text stays; the positions that the model is
   given change. Rotary ones turn queries and keys, so that only distances count: moved all by the
   same number, they leave every pattern as it was. Learned ones are looked up, and moved they are
   others. At twice the distance both change.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mi_toolkit.core.attention_masks import sights
from mi_toolkit.core.model import (
    HookedModel,
    attached,
    attention_layers,
    evaluating,
    pattern_hook,
)
from mi_toolkit.core.passes import visit_patterns
from mi_toolkit.core.sight import sees
from mi_toolkit.core.tl_compat import key_value_cache
from mi_toolkit.core.tolerances import ATTENTION, ROW_SUMS, logit_floor
from mi_toolkit.models.checkpoints import Loading
from mi_toolkit.models.describe import QK_NORM, QKV_BIAS
from mi_toolkit.verification.check_input import (
    SHIFT,
    CheckInput,
    Outcome,
    at_least,
    at_most,
    coherence_loss,
    coherence_repetition,
    not_applicable,
)


def qkv_bias(subject: CheckInput) -> Outcome:
    """Biases of queries, keys and values are added, where the family has them."""
    named = subject.reference.named_parameters()
    biases = [parameter for name, parameter in named if QKV_BIAS.search(name)]
    if not biases:
        return not_applicable("The family has no biases in Q, K and V.")
    if not any(bool(bias.any()) for bias in biases):
        return not_applicable("Q, K and V have biases, but all are 0.")
    with _zeroed(biases):
        without = subject.reference_logits()
    return _different(subject, subject.logits(), without, "the biases of Q, K and V")


def qk_norm(subject: CheckInput) -> Outcome:
    """Queries and keys are normalised, where the family does it."""
    norms = [
        module
        for name, module in subject.reference.named_modules()
        if QK_NORM.search(f"{name}.") and not list(module.children())
    ]
    if not norms:
        return not_applicable("The family does not normalise queries and keys.")
    with attached(module.register_forward_hook(_passing) for module in norms):
        without = subject.reference_logits()
    return _different(subject, subject.logits(), without, "the norms of Q and K")


def rope_scaling(subject: CheckInput) -> Outcome:
    """Rotary frequencies are stretched, where the config says so."""
    scaling = subject.facts.rope_scaling
    if scaling is None:
        return not_applicable("Rotary frequencies are not stretched.")
    kind = str(scaling.get("rope_type", scaling.get("type")))
    if kind in ("dynamic", "longrope"):
        return not_applicable(f"The stretching is {kind}: it sets in beyond the trained context.")
    turning = [each for each in subject.reference.modules() if hasattr(each, "inv_freq")]
    if not turning or not hasattr(subject.model, "original_model"):
        return not_applicable(f"The stretching ({kind}) cannot be taken out here.")
    # Far apart, where slow frequencies have turned.
    length = subject.ids.shape[1]
    positions = torch.linspace(0, subject.facts.context - 1, length).long()[None]
    positions = positions.to(subject.ids.device)
    with _unstretched(turning, float(subject.facts.rope_base or 1e4)):
        without = subject.reference_logits(position_ids=positions)
    ours = subject.logits(position_ids=positions)
    return _different(subject, ours, without, f"the stretching of rotary frequencies ({kind})")


def _different(
    subject: CheckInput, ours: torch.Tensor, without: torch.Tensor, part: str
) -> Outcome:
    return at_least(
        logit_floor(subject.facts.dtype, ours),
        float((ours - without).abs().max()),
        f"Largest difference of a logit to Hugging Face's model without {part}: with them at work "
        "there is some.",
    )


def _passing(module: Any, given: Any, normalised: Any) -> Any:
    return given[0]


@contextmanager
def _zeroed(parameters: list[Any]) -> Iterator[None]:
    kept = [parameter.detach().clone() for parameter in parameters]
    try:
        with torch.no_grad():
            for parameter in parameters:
                parameter.zero_()
        yield
    finally:
        with torch.no_grad():
            for parameter, values in zip(parameters, kept, strict=True):
                parameter.copy_(values)


@contextmanager
def _unstretched(turning: list[Any], base: float) -> Iterator[None]:
    kept = [(each.inv_freq, getattr(each, "attention_scaling", 1.0)) for each in turning]
    try:
        for each in turning:
            share = torch.arange(len(each.inv_freq), device=each.inv_freq.device)
            each.inv_freq = base ** -(share / len(each.inv_freq)).to(each.inv_freq)
            each.attention_scaling = 1.0
        yield
    finally:
        for each, (frequencies, attention_scaling) in zip(turning, kept, strict=True):
            each.inv_freq, each.attention_scaling = frequencies, attention_scaling


_TOKENS = 24


def positions_shifted(subject: CheckInput) -> Outcome:
    """Rotary positions do not notice a shift, learned ones do."""
    refusal = _not_applicable_to(subject)
    if refusal is not None:
        return refusal
    floor, length = ATTENTION[subject.facts.dtype], min(_TOKENS, subject.ids.shape[1])
    here = torch.arange(length)
    change = _change(subject, here, here + SHIFT)
    what = f"Largest change of an attention weight when all positions are {SHIFT} later"
    if subject.facts.positional == "rotary":
        if change <= floor:
            return at_most(floor, change, f"{what}: rotary ones count distances, so there is none.")
        return at_most(
            floor,
            _off_reference(subject, here + SHIFT),
            f"{what}: {change:.2g}. Where norms follow the turning, or scores are far apart, so "
            "it is; the figure is the difference to Hugging Face's own at the later positions.",
        )
    return at_least(floor, change, f"{what}: learned ones are then others, so there is some.")


def positions_stretched(subject: CheckInput) -> Outcome:
    """At twice the distance attention is another."""
    refusal = _not_applicable_to(subject)
    if refusal is not None:
        return refusal
    length = min(_TOKENS, subject.ids.shape[1], subject.facts.context // 2)
    here = torch.arange(length)
    change = _change(subject, here, 2 * here)
    return at_least(
        ATTENTION[subject.facts.dtype],
        change,
        "Largest change of an attention weight at twice the distances: without any, positions "
        "would have no part.",
    )


def _not_applicable_to(subject: CheckInput) -> Outcome | None:
    if subject.facts.positional not in ("rotary", "learned"):
        return not_applicable(f"Positions are {subject.facts.positional}: there are none to move.")
    if not subject.attention_layers():
        return not_applicable("The model has no attention pattern to see them in.")
    if not hasattr(subject.model, "original_model"):
        return not_applicable("A HookedTransformer cannot be given positions: load a bridge.")
    return None


def _change(subject: CheckInput, these: Tensor, those: Tensor) -> float:
    ids = subject.ids[:, : len(these)]
    first, second = (_patterns(subject.model, ids, positions) for positions in (these, those))
    return _farthest(first, second)


def _off_reference(subject: CheckInput, positions: Tensor) -> float:
    """The largest difference of a weight to Hugging Face's own; infinite where it gives none."""
    ids = subject.ids[:, : len(positions)]
    at = positions[None].to(ids.device)
    wanted = subject.reference_patterns(ids, position_ids=at)
    layers = attention_layers(subject.model)
    if set(wanted) != set(layers):
        return torch.inf
    found = dict(zip(layers, _patterns(subject.model, ids, positions), strict=True))
    return _farthest(found.values(), [wanted[layer][0].float().cpu() for layer in layers])


def _farthest(first: Iterable[Tensor], second: Iterable[Tensor]) -> float:
    off = [(a - b).abs().max() for a, b in zip(first, second, strict=True)]
    return float(torch.stack(off).max().nan_to_num(torch.inf))


def _patterns(
    model: HookedModel, ids: Int[Tensor, "1 position"], positions: Int[Tensor, " position"]
) -> list[Float[Tensor, "head query key"]]:
    kept: list[Tensor] = []

    def keep(patterns: Tensor, hook: object) -> None:
        kept.append(patterns[0].float().cpu())

    hooks = [(pattern_hook(layer), keep) for layer in attention_layers(model)]
    with evaluating(model), torch.no_grad(), model.hooks(fwd_hooks=hooks):
        model(
            ids,
            return_type=None,
            attention_mask=torch.ones_like(ids),
            position_ids=positions[None].to(ids.device),
            use_cache=False,
        )
    return kept


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
    sinks = "."
    if with_sinks:
        sinks = (
            f"; in {len(with_sinks)} layers with a sink, from what Hugging Face's rows leave it."
        )
    return at_most(
        ROW_SUMS[subject.facts.dtype],
        worst,
        f"Largest distance of a row's sum from 1, in any head{sinks}",
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
    lost = [
        f"{len(names)} {what} ({names[0]}{', …' if len(names) > 1 else ''})"
        for what, names in wrong.items()
        if names
    ]
    sentence = (
        f"Tensors that did not find their place: {', '.join(lost)}."
        if lost
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
