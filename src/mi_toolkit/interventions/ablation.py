"""Ablating heads: their output before `W_O` replaced, for as long as a context lasts.

A kind of ablation is a function from the model, the heads and a reference to hooks; `KINDS` is the
table of them. The replaced activation is a head's `z`, `["batch position head d_head"]`, per query
head where keys and values are shared.

Kinds differ in what they leave in place, and none is neutral. `zero` puts a head where it may never
have been; `mean` keeps what it always writes and takes what depends on the text; `resample` keeps
its distribution and brings another text's information in; `pattern_preserving` takes only what the
head's output carries, not what later heads attend to because of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from einops import einsum, repeat
from jaxtyping import Float
from torch import Tensor

from mi_toolkit.errors import HookError, PromptError, UnknownNameError, unknown_name
from mi_toolkit.heads.head import Head
from mi_toolkit.heads.patterns import patterns_of
from mi_toolkit.hooked_model import HookedModel, HookFunction, attention_layers, z_hook
from mi_toolkit.hooked_pass import visit_activations
from mi_toolkit.prompts.stimuli import natural
from mi_toolkit.prompts.tokens import Prompt, TokenBatch, tokenise

HeadName = Head | tuple[int, int] | str
ByLayer = Mapping[int, Sequence[int]]
Hooks = list[tuple[str, HookFunction]]

MEAN_BATCH = 16


@contextmanager
def ablating(
    model: HookedModel,
    heads: Iterable[HeadName],
    how: str = "zero",
    reference: Prompt | TokenBatch | None = None,
) -> Iterator[None]:
    """Inside, the heads' outputs are replaced in every pass; after it, nothing is left behind.

    Contexts nest, and leave no hook when an error ends them.

    Args:
        model: the model; its weights are not touched.
        heads: names such as `L5H1`, `(5, 1)` or `Head(5, 1)`; none changes nothing.
        how: `zero`; `mean`, the head's mean output over the reference, BOS left out (by default
            over the bundled natural passages); `resample`, its output at the same position of
            another sequence: of the reference, or, without one, of the next sequence in the batch;
            `pattern_preserving`, zero, with every later attention pattern kept as it was in a
            clean run on the reference, which must be the ids that will run.
        reference: text or ids that `mean`, `resample` and `pattern_preserving` take from.

    Raises:
        UnknownNameError: no such kind, or no such head in this model.
        PromptError: a reference that the kind needs is missing, or does not fit what ran.
        HookError: a head's hook did not fire inside, so nothing was ablated.

    Example:
        >>> import torch
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> ids = torch.tensor([[0, 5, 6, 7]])
        >>> clean = model(ids)
        >>> with mi.ablating(model, ["L0H1"]):
        ...     ablated = model(ids)
        >>> torch.equal(clean, ablated), torch.equal(clean, model(ids))
        (False, True)
    """
    if how not in KINDS:
        raise unknown_name("kind of ablation", how, KINDS)
    by_layer = heads_by_layer(model, heads)
    if not by_layer:
        yield
        return
    if reference is not None and not isinstance(reference, TokenBatch):
        reference = tokenise(model, reference)
    fired: Counter[str] = Counter()
    hooks = [
        (name, _counted(name, hook, fired)) for name, hook in KINDS[how](model, by_layer, reference)
    ]
    with model.hooks(fwd_hooks=hooks):
        yield
    for layer in by_layer:
        if not fired[z_hook(layer)]:
            raise HookError(
                f"{z_hook(layer)} of {model.cfg.model_name} did not fire inside ablating(...), so "
                f"its heads {list(by_layer[layer])} were not ablated. Run the model inside."
            )


def heads_by_layer(model: HookedModel, heads: Iterable[HeadName]) -> dict[int, list[int]]:
    """The heads of each layer, each once, checked against the model.

    Raises:
        UnknownNameError: a head that the model does not have.
    """
    if isinstance(heads, str | Head):
        heads = [heads]
    layers, n_heads = attention_layers(model), int(model.cfg.n_heads)
    found: dict[int, list[int]] = {}
    for head in sorted({Head.of(name) for name in heads}):
        if head.layer not in layers or not 0 <= head.head < n_heads:
            raise UnknownNameError(
                f"{model.cfg.model_name} has no head {head}: its layers are 0 to "
                f"{model.cfg.n_layers - 1} and its heads 0 to {n_heads - 1}."
            )
        found.setdefault(head.layer, []).append(head.head)
    return found


def _counted(name: str, hook: HookFunction, fired: Counter[str]) -> HookFunction:
    replace = hook

    # TransformerLens passes the hook point by keyword, under this very name.
    def counting(activation: Tensor, hook: Any) -> Tensor | None:
        fired[name] += 1
        return replace(activation)

    return counting


def _replacing(
    heads: Sequence[int], make: Callable[[Tensor], Tensor | float]
) -> Callable[[Tensor], Tensor]:
    """A hook that puts `make(z)` in the place of the heads' `z`; what it was given stays whole."""
    index = list(heads)

    def replace(z: Float[Tensor, "batch position head d_head"]) -> Tensor:
        edited = z.clone()
        edited[:, :, index] = make(z)
        return edited

    return replace


def _zero(model: HookedModel, by_layer: ByLayer, reference: TokenBatch | None) -> Hooks:
    return [(z_hook(layer), _replacing(heads, lambda _: 0.0)) for layer, heads in by_layer.items()]


def _mean(model: HookedModel, by_layer: ByLayer, reference: TokenBatch | None) -> Hooks:
    means = mean_outputs(model, list(by_layer), natural(model) if reference is None else reference)

    def hook(layer: int, heads: Sequence[int]) -> HookFunction:
        mean = means[layer][list(heads)]
        return _replacing(heads, lambda z: mean.to(z.device, z.dtype))

    return [(z_hook(layer), hook(layer, heads)) for layer, heads in by_layer.items()]


def _resample(model: HookedModel, by_layer: ByLayer, reference: TokenBatch | None) -> Hooks:
    if reference is None:
        return [
            (z_hook(layer), _replacing(heads, _of_next_sequence(heads)))
            for layer, heads in by_layer.items()
        ]
    outputs = _outputs(model, list(by_layer), reference)

    def hook(layer: int, heads: Sequence[int]) -> HookFunction:
        other = outputs[layer][:, :, list(heads)]

        def elsewhere(z: Tensor) -> Tensor:
            n_sequences, length = z.shape[:2]
            if int(reference.lengths.min()) < length or len(other) not in (1, n_sequences):
                shortest = int(reference.lengths.min())
                raise PromptError(
                    f"The resample reference has {len(other)} sequences of {shortest} "
                    f"tokens and more, but {n_sequences} of {length} ran: give one sequence, or as "
                    "many as run, at least as long."
                )
            return other[:, :length].to(z.device, z.dtype)

        return _replacing(heads, elsewhere)

    return [(z_hook(layer), hook(layer, heads)) for layer, heads in by_layer.items()]


def _of_next_sequence(heads: Sequence[int]) -> Callable[[Tensor], Tensor]:
    def of_next(z: Tensor) -> Tensor:
        if len(z) < 2:
            raise PromptError(
                "A resample ablation takes the output on another sequence, and one sequence ran: "
                "run a batch, or pass reference=."
            )
        return z[:, :, list(heads)].roll(1, dims=0)

    return of_next


def _pattern_preserving(
    model: HookedModel, by_layer: ByLayer, reference: TokenBatch | None
) -> Hooks:
    if reference is None:
        raise PromptError(
            "A pattern-preserving ablation keeps the patterns of a clean run: pass the ids that "
            "will run as reference=."
        )
    first = min(by_layer)
    layers = [layer for layer in attention_layers(model) if layer >= first]
    patterns = patterns_of(model, reference.ids, layers)
    hooks: Hooks = []
    for layer in layers:
        # z = pattern · v. Editing the pattern itself would do nothing on some bridges, whose
        # attention is Hugging Face's own code and has used the pattern when its hook fires.
        seen: dict[str, Tensor] = {}
        frozen = _frozen(patterns[layer], seen, by_layer.get(layer, ()), layer)
        hooks += [(f"blocks.{layer}.attn.hook_v", _keeping(seen)), (z_hook(layer), frozen)]
    return hooks


def _keeping(seen: dict[str, Tensor]) -> HookFunction:
    def keep(v: Tensor) -> None:
        seen["v"] = v

    return keep


def _frozen(
    pattern: Tensor, seen: dict[str, Tensor], heads: Sequence[int], layer: int
) -> HookFunction:
    def freeze(z: Float[Tensor, "batch position head d_head"]) -> Tensor:
        if pattern.shape[0] != z.shape[0] or pattern.shape[-1] != z.shape[1]:
            raise PromptError(
                "A pattern-preserving ablation keeps the patterns of its reference, of "
                f"{pattern.shape[0]} × {pattern.shape[-1]} tokens, but {z.shape[0]} × {z.shape[1]} "
                "ran: pass the ids that run as reference=."
            )
        if "v" not in seen:
            raise HookError(f"blocks.{layer}.attn.hook_v did not fire before {z_hook(layer)}.")
        v = seen.pop("v")
        shared = repeat(v, "b k kv d -> b k (kv group) d", group=z.shape[2] // v.shape[2])
        kept = einsum(pattern.to(z.device, z.dtype), shared, "b h q k, b k h d -> b q h d")
        kept[:, :, list(heads)] = 0
        return kept

    return freeze


Kind = Callable[[HookedModel, ByLayer, TokenBatch | None], Hooks]

KINDS: Mapping[str, Kind] = MappingProxyType(
    {"zero": _zero, "mean": _mean, "resample": _resample, "pattern_preserving": _pattern_preserving}
)
"""The kinds of ablation by name."""


def mean_outputs(
    model: HookedModel, layers: Sequence[int], batch: TokenBatch
) -> dict[int, Float[Tensor, "head d_head"]]:
    """Each head's mean output over a batch, by layer; padding and a BOS at 0 left out.

    Raises:
        PromptError: the batch has nothing but BOS.
    """
    position = torch.arange(batch.ids.shape[1])
    counts = (position < batch.lengths[:, None]) & (position >= batch.has_bos[:, None].long())
    if not counts.any():
        raise PromptError("The mean over a reference needs a token besides BOS.")
    sums: dict[int, Tensor] = {}
    for start in range(0, len(batch), MEAN_BATCH):
        stop = min(start + MEAN_BATCH, len(batch))
        outputs = _outputs(model, layers, batch.part(start, stop))
        for layer, z in outputs.items():
            part = counts[start:stop, : z.shape[1], None, None]
            sums[layer] = sums.get(layer, torch.tensor(0.0)) + (z * part).sum(dim=(0, 1))
    return {layer: total / counts.sum() for layer, total in sums.items()}


def _outputs(
    model: HookedModel, layers: Sequence[int], batch: TokenBatch
) -> dict[int, Float[Tensor, "batch position head d_head"]]:
    """Each layer's head outputs in a clean run, on the CPU in float32."""
    layer_of = {z_hook(layer): layer for layer in layers}
    kept: dict[int, Tensor] = {}

    def keep(name: str, z: Tensor) -> None:
        kept[layer_of[name]] = z.to(device="cpu", dtype=torch.float32, copy=True)

    visit_activations(model, batch.ids, list(layer_of), keep)
    return kept
