"""Ablating parts of a model: their activations replaced, for as long as a context lasts.

1. A `Target` names one activation and marks what of it is replaced, alike in every row of a batch
   or row by row.
2. A kind of ablation takes from a reference what it needs, once, and then makes hooks for targets:
   `KINDS` is the table of them, and what to put in a mark's place is all that they differ in.
3. `ablating` holds the hooks of one set of components while a context lasts; whoever runs many sets
   gives each row of a batch its own.

Kinds differ in what they leave in place, and none is neutral. `zero` puts a part where it may never
have been; `mean` keeps what it always writes and takes what depends on the text; `resample` keeps
its distribution and brings another text's information in; `pattern_preserving` takes only what the
part's output carries, not what later heads attend to because of it.

`pattern_preserving`: zero, while every later head keeps attending where it did.

It separates what a part's output carries from what later heads attend to because of it. What
attends later than a layer's heads or MLP is the attention of the layers after it; the layer's own
keeps its pattern too, which nothing ablated in it could change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

import torch
from einops import einsum, repeat
from jaxtyping import Float
from torch import Tensor

from mi_toolkit.core.errors import HookError, PromptError, unknown_name
from mi_toolkit.core.model import (
    HookedModel,
    HookFunction,
    attention_layers,
    by_head,
    changed,
    z_hook,
)
from mi_toolkit.core.passes import patterns_of, positions_before, visit_activations
from mi_toolkit.core.process_state import alone_with, jobs_running, known_state, require_hooks
from mi_toolkit.core.stimuli import natural
from mi_toolkit.core.tokens import Prompt, TokenBatch, tokenise
from mi_toolkit.interventions.components import (
    Apply,
    ComponentName,
    Hooks,
    Target,
    checked_components,
    in_words,
    replacing,
    targets_of,
)

MEAN_BATCH = 16

_running: ContextVar[bool] = ContextVar("_running", default=False)


@contextmanager
def running_clean() -> Iterator[None]:
    """Inside, active ablations change nothing: where contexts nest, a reference is clean."""
    token = _running.set(True)
    try:
        yield
    finally:
        _running.reset(token)


def is_running_clean() -> bool:
    """Whether what runs now is a reference."""
    return _running.get()


def clean_outputs(
    model: HookedModel, hooks: Sequence[str], batch: TokenBatch
) -> dict[str, Float[Tensor, "batch position *unit"]]:
    """Each hook's activation in a clean run, on the CPU in float32."""
    kept: dict[str, Tensor] = {}

    def keep(name: str, activation: Tensor) -> None:
        kept[name] = activation.to(device="cpu", dtype=torch.float32, copy=True)

    with running_clean():
        visit_activations(model, batch.ids, hooks, keep)
    return kept


def mean_outputs(
    model: HookedModel, hooks: Sequence[str], batch: TokenBatch
) -> dict[str, Float[Tensor, "*unit"]]:
    """Each hook's mean activation over a batch; padding and a BOS at 0 left out.

    Raises:
        PromptError: the batch has nothing but BOS.
    """
    position = torch.arange(batch.ids.shape[1])
    counts = (position < batch.lengths[:, None]) & (position >= batch.has_bos[:, None].long())
    if not counts.any():
        raise PromptError("The mean over a reference needs a token besides BOS.")
    sums: dict[str, Tensor] = {}
    for start in range(0, len(batch), MEAN_BATCH):
        stop = min(start + MEAN_BATCH, len(batch))
        for name, activation in clean_outputs(model, hooks, batch.part(start, stop)).items():
            counted = activation[counts[start:stop, : activation.shape[1]]]
            sums[name] = sums.get(name, torch.tensor(0.0)) + counted.sum(dim=0)
    return {name: total / counts.sum() for name, total in sums.items()}


def mean(model: HookedModel, needed: Sequence[Target], reference: TokenBatch | None) -> Apply:
    """The mean over the reference, BOS left out; without one, over the natural passages."""
    hooks = [target.hook for target in needed]
    means = mean_outputs(
        model, hooks, natural(model, as_trained=True) if reference is None else reference
    )

    def hook(target: Target) -> HookFunction:
        value = means[target.hook]
        return replacing(target, lambda activation: value.to(activation.device, activation.dtype))

    def apply(targets: Sequence[Target]) -> Hooks:
        return [(target.hook, hook(target)) for target in targets]

    return apply


def zero(model: HookedModel, needed: Sequence[Target], reference: TokenBatch | None) -> Apply:
    """Zeros; the reference is not looked at."""

    def apply(targets: Sequence[Target]) -> Hooks:
        return [(target.hook, replacing(target, lambda _: 0.0)) for target in targets]

    return apply


def resample(model: HookedModel, needed: Sequence[Target], reference: TokenBatch | None) -> Apply:
    """The reference's activations; without one, those of the batch's next sequence."""
    if reference is None:
        return lambda targets: [
            (target.hook, replacing(target, _of_next_sequence)) for target in targets
        ]
    outputs = clean_outputs(model, [target.hook for target in needed], reference)

    def apply(targets: Sequence[Target]) -> Hooks:
        return [
            (target.hook, replacing(target, _elsewhere(outputs[target.hook], reference)))
            for target in targets
        ]

    return apply


def _elsewhere(other: Tensor, reference: TokenBatch) -> Callable[[Tensor], Tensor]:
    def elsewhere(activation: Tensor) -> Tensor:
        n_sequences, start = len(activation), positions_before() or 0
        stop, shortest = start + activation.shape[1], int(reference.lengths.min())
        if shortest < stop or len(other) not in (1, n_sequences):
            raise PromptError(
                f"The resample reference has {len(other)} sequences of {shortest} "
                f"tokens and more, but {n_sequences} of {stop} ran: give one sequence, or as many "
                "as run, at least as long."
            )
        return other[:, start:stop].to(activation.device, activation.dtype)

    return elsewhere


def _of_next_sequence(activation: Tensor) -> Tensor:
    if len(activation) < 2:
        raise PromptError(
            "A resample ablation takes the output on another sequence, and one sequence ran: run a "
            "batch, or pass reference=."
        )
    return activation.roll(-1, dims=0)


def _of_these_rows(hooks: Hooks) -> Hooks:
    """Hooks that give each row of a pass what is another row's: refused inside a function.

    What runs side by side there is the function's own affair: parts of a batch, padded ones, heads
    on one prompt. Other rows would be other figures.
    """
    entered = jobs_running()

    def checked(function: HookFunction) -> HookFunction:
        def check(*given: Any, **named: Any) -> Any:
            if jobs_running() > entered:
                raise PromptError(
                    "A resample ablation takes each sequence's output from another one of the "
                    "batch that runs, and a function of the library makes batches of its own: give "
                    "ablating a reference of one sequence, or run the model itself."
                )
            return function(*given, **named)

        return check

    return [(name, checked(function)) for name, function in hooks]


def pattern_preserving(
    model: HookedModel, needed: Sequence[Target], reference: TokenBatch | None
) -> Apply:
    """Zeros, and the reference's patterns from the first ablated layer on.

    Raises:
        PromptError: there is no reference.
    """
    if reference is None:
        raise PromptError(
            "A pattern-preserving ablation keeps the patterns of a clean run: pass the ids that "
            "will run as reference=."
        )
    # Where nothing is ablated, nothing is kept.
    first = min((target.layer for target in needed), default=int(model.cfg.n_layers))
    layers = [layer for layer in attention_layers(model) if layer >= first]
    with running_clean():
        patterns = patterns_of(model, reference.ids, layers)

    def apply(targets: Sequence[Target]) -> Hooks:
        masks = {target.hook: target.mask for target in targets}
        start = min((target.layer for target in targets), default=int(model.cfg.n_layers))
        hooks: Hooks = [
            (target.hook, replacing(target, lambda _: 0.0))
            for target in targets
            if target.hook != z_hook(target.layer)
        ]
        for layer in layers:
            if layer < start:
                continue
            # z = pattern · v. Editing the pattern itself would do nothing on some bridges, whose
            # attention is Hugging Face's own code and has used the pattern when its hook fires.
            seen: dict[str, Tensor] = {}
            frozen = _frozen(patterns[layer], seen, masks.get(z_hook(layer)), layer)
            hooks += [(f"blocks.{layer}.attn.hook_v", _keeping(seen)), (z_hook(layer), frozen)]
        return hooks

    return apply


def _keeping(seen: dict[str, Tensor]) -> HookFunction:
    def keep(v: Tensor) -> None:
        seen["v"] = v

    return keep


def _frozen(
    pattern: Tensor, seen: dict[str, Tensor], mask: Tensor | None, layer: int
) -> HookFunction:
    def freeze(z: Float[Tensor, "batch position head d_head"]) -> Tensor:
        length = (positions_before() or 0) + z.shape[1]
        if len(pattern) not in (1, len(z)) or pattern.shape[-1] != length:
            raise PromptError(
                "A pattern-preserving ablation keeps the patterns of its reference, of "
                f"{pattern.shape[0]} × {pattern.shape[-1]} tokens, but {z.shape[0]} × {length} "
                "ran: pass the ids that run as reference=. Generated text outgrows any."
            )
        if "v" not in seen:
            raise HookError(f"blocks.{layer}.attn.hook_v did not fire before {z_hook(layer)}.")
        n_heads, v = pattern.shape[1], seen.pop("v")
        if v.shape[2] > n_heads:
            v = by_head(v, n_heads)
        shared = repeat(v, "b k kv d -> b k (kv group) d", group=n_heads // v.shape[2])
        clean = pattern.to(z.device, z.dtype).expand(len(z), -1, -1, -1)
        kept = einsum(clean, shared, "b h q k, b k h d -> b q h d")
        return (kept if mask is None else torch.where(mask, 0.0, kept)).reshape(z.shape)

    return freeze


Kind = Callable[[HookedModel, Sequence[Target], TokenBatch | None], Apply]
"""From the model, all that will be ablated and a reference to what makes hooks for targets."""

KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "zero": zero,
        "mean": mean,
        "resample": resample,
        "pattern_preserving": pattern_preserving,
    }
)
"""The kinds of ablation by name."""


def check_kind(how: str) -> None:
    """Check a kind's name.

    Raises:
        UnknownNameError: no such kind.
    """
    if how not in KINDS:
        raise unknown_name("kind of ablation", how, KINDS)


@contextmanager
def ablating(
    model: HookedModel,
    components: ComponentName | Iterable[ComponentName],
    how: str = "zero",
    reference: Prompt | TokenBatch | None = None,
) -> Iterator[None]:
    """Inside, the components' outputs are replaced in every pass; after it, nothing is left.

    Contexts nest, and leave no hook when an error ends them. What a kind takes from a reference is
    the model's without any ablation, where contexts nest too.

    While it lasts the model belongs to its thread: what another thread asks the library of this
    model waits until the context is left. So do not wait inside for such a thread. A bare
    `model(ids)` in another thread does not wait.

    Args:
        model: the model; its weights are not touched.
        components: heads (`L5H1`, `(5, 1)` or `Head(5, 1)`), neurons (`L5N300`: the MLP's hidden
            activation, after its gate where it has one), a layer's whole attention (`L5.attn`) or
            MLP (`L5.mlp`), or both (`L5`). All are taken before `W_O` or `W_out`, so what stays of
            a part is its output bias. None changes nothing.
        how: `zero`; `mean`, the part's mean output over the reference, BOS left out (by default
            over the bundled natural passages); `resample`, its output at the same position of
            another sequence: of the reference, or, without one, of the next sequence in the batch
            (both row by row: of one reference sequence alone inside functions of the library);
            `pattern_preserving`, zero, with every later attention pattern kept as it was in a
            clean run on the reference, which must be the ids that will run (one sequence serves a
            batch of copies).
        reference: text or ids that `mean`, `resample` and `pattern_preserving` take from.

    Raises:
        UnknownNameError: no such kind, or no such component in this model.
        PromptError: a reference that the kind needs is missing, or does not fit what ran.
        HookError: a component's hook did not fire inside, so nothing was ablated.

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
    require_hooks(model, "ablating")
    with alone_with(model):
        with known_state():
            check_kind(how)
            chosen = checked_components(model, components)
            targets = targets_of(model, [chosen])
            if reference is not None and not isinstance(reference, TokenBatch):
                reference = tokenise(model, reference)
            hooks = KINDS[how](model, targets, reference)(targets) if targets else []
            if how == "resample" and (reference is None or len(reference) > 1):
                hooks = _of_these_rows(hooks)
        what = f"{how} ablation of {in_words(chosen)}"
        with in_place(model, targets, hooks), changed(model, what) if chosen else nullcontext():
            yield


@contextmanager
def in_place(model: HookedModel, targets: Iterable[Target], hooks: Hooks) -> Iterator[None]:
    """The hooks in place inside; every target's must fire there, in a run that is no reference.

    Raises:
        HookError: a target's hook did not fire inside.
    """
    fired: Counter[str] = Counter()
    counted = [(name, _counted(name, hook, fired)) for name, hook in hooks]
    with model.hooks(fwd_hooks=counted):
        yield
    for target in targets:
        if not fired[target.hook]:
            raise HookError(
                f"{target.hook} of {model.cfg.model_name} did not fire inside ablating(...), so "
                f"{target} were not ablated. Run the model inside."
            )


def _counted(name: str, hook: HookFunction, fired: Counter[str]) -> HookFunction:
    replace = hook

    # TransformerLens passes the hook point by keyword, under this very name.
    def counting(activation: Tensor, hook: Any) -> Tensor | None:
        if is_running_clean():
            return None
        fired[name] += 1
        return replace(activation)

    return counting
