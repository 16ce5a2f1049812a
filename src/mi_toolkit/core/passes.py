"""One hooked pass: the named activations are shown to a visitor as they appear, then dropped.

What a pass gives is checked to be finite, by a sum of each tensor. Only where one is not, the pass
runs again, to name the first module whose output is NaN or infinite.

A run may begin at a later block: what comes before it is known, and is not computed again.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mi_toolkit.core.errors import HookError, NotFiniteError
from mi_toolkit.core.model import (
    HookedModel,
    HookFunction,
    attached,
    by_head,
    evaluating,
    method_replaced,
    pattern_hook,
    uncached,
)
from mi_toolkit.core.process_state import allows_nan
from mi_toolkit.core.progress import check_wanted

Visitor = Callable[[str, Tensor], None]
"""`(name, activation)`; the activation belongs to the pass: copy what is to outlive the call."""

_positions_before: ContextVar[int | None] = ContextVar("_positions_before", default=None)


@contextmanager
def continuing() -> Iterator[Callable[[int], None]]:
    """Inside, text is generated; what is given sets how many positions a cache holds by now."""

    def hold(positions: int) -> None:
        _positions_before.set(positions)

    token = _positions_before.set(0)
    try:
        yield hold
    finally:
        _positions_before.reset(token)


def positions_before() -> int | None:
    """The positions before the first that a hook sees; None unless text is being generated.

    With a cache of keys and values a hook sees the prompt once, and then one position at a time.
    """
    return _positions_before.get()


class _LastOneSeen(Exception):
    """Leaves a forward pass that has nothing more to show."""


def visit_activations(
    model: HookedModel,
    ids: Int[Tensor, "sequence position"],
    names: Sequence[str],
    visit: Visitor,
) -> None:
    """Run `ids` and show `visit` each named activation, in the order in which they appear.

    The pass stops after the last of them: no later layer and no unembedding is computed. Nothing
    is masked, so `ids` are padded on the right, if at all. The model's mode comes back as it was.

    Raises:
        HookError: a hook did not fire.
        NotFiniteError: an activation is NaN or infinite.
    """
    waiting = set(names)
    sums: list[Tensor] = []

    def showing(name: str) -> HookFunction:
        # On a bridge a hook may fire under another name than the one it was asked by.
        def show(activation: Tensor, hook: Any) -> None:
            check_wanted()
            waiting.discard(name)
            if not name.endswith(_LARGE) or not waiting:
                sums.append(_sum(name, activation))
            visit(name, _as_shown(model, name, activation.detach()))
            if not waiting:
                raise _LastOneSeen

        return show

    with suppress(_LastOneSeen):
        _run(model, ids, {name: showing(name) for name in names})
    if waiting:
        raise HookError(_did_not_fire(min(waiting), model))
    _check(model, ids, sums)


def logits_and_activations(
    model: HookedModel,
    ids: Int[Tensor, "sequence position"],
    names: Sequence[str],
    visit: Visitor,
) -> Float[Tensor, "sequence position vocabulary"]:
    """As `visit_activations`, but to the end: the model's logits.

    Raises:
        HookError: a hook did not fire.
        NotFiniteError: an activation or a logit is NaN or infinite.
    """
    waiting = set(names)
    sums: list[Tensor] = []

    def showing(name: str) -> HookFunction:
        def show(activation: Tensor, hook: Any) -> None:
            check_wanted()
            waiting.discard(name)
            if not name.endswith(_LARGE):
                sums.append(_sum(name, activation))
            visit(name, _as_shown(model, name, activation.detach()))

        return show

    hooks = {name: showing(name) for name in names}
    logits: Tensor = _run(model, ids, hooks, return_type="logits")
    if waiting:
        raise HookError(_did_not_fire(min(waiting), model))
    _check(model, ids, [*sums, _sum("logits", logits)])
    return logits


def _as_shown(model: HookedModel, name: str, activation: Tensor) -> Tensor:
    is_z = name.endswith(".attn.hook_z") and activation.ndim == 4
    return by_head(activation, int(model.cfg.n_heads)) if is_z else activation


def activations_that_fire(
    model: HookedModel, ids: Int[Tensor, "sequence position"], names: Sequence[str]
) -> dict[str, Tensor]:
    """Each named activation, of those that fire and are one tensor of floats."""
    fired: dict[str, Tensor] = {}

    def noting(name: str) -> HookFunction:
        def note(activation: Any, hook: Any) -> None:
            if isinstance(activation, Tensor) and activation.is_floating_point():
                fired[name] = activation.detach().clone()

        return note

    _run(model, ids, {name: noting(name) for name in names})
    return fired


def _run(
    model: HookedModel,
    ids: Int[Tensor, "sequence position"],
    hooks: Mapping[str, HookFunction],
    return_type: str | None = None,
) -> Any:
    ids = ids.to(model.cfg.device)
    with evaluating(model), torch.no_grad(), model.hooks(fwd_hooks=list(hooks.items())):
        return model(
            ids, return_type=return_type, attention_mask=torch.ones_like(ids), **uncached(model)
        )


_LARGE = ("hook_pattern", "hook_attn_scores")
"""As large as the length squared, and what is no number here is none in whatever comes after: of
these the last one is looked at, where a pass ends with it."""


def _sum(name: str, activation: Tensor) -> Tensor:
    """NaN or infinite where an entry is; minus infinity among scores is a mask's, and meant."""
    entries = activation.detach()
    if name.endswith("hook_attn_scores"):
        entries = entries.clamp_min(0)
    return entries.sum(dtype=torch.float32)


def check_finite_pass(model: HookedModel, ids: Int[Tensor, "row position"], found: Tensor) -> None:
    """Nothing, where a pass over `ids` gave numbers, or may give what it likes (`allow_nan`).

    To be called while the hooks that were active in the pass still are.

    Raises:
        NotFiniteError: it gave NaN or infinity; the message names the first module that did.
    """
    _check(model, ids, [_sum("logits", found)])


def check_finite_figures(model: HookedModel, what: str, figures: Tensor) -> None:
    """Nothing, where figures that were computed from a pass are numbers, or need not be.

    Raises:
        NotFiniteError: they are not, though what the pass gave was: gradients overflow first.
    """
    if allows_nan() or bool(figures.isfinite().all()):
        return
    raise NotFiniteError(
        f"{what} of {model.cfg.model_name} are NaN or infinite in {_dtype(model)}, though its "
        "activations are not: load the model in another precision (dtype='float32')."
    )


def _dtype(model: Any) -> str:
    return str(model.cfg.dtype).removeprefix("torch.")


def _check(model: HookedModel, ids: Tensor, sums: Sequence[Tensor]) -> None:
    if allows_nan() or not sums:
        return
    # On the device until here: one wait for it in each pass.
    if bool(torch.stack([each.to(sums[0].device) for each in sums]).isfinite().all()):
        return
    first = _first_not_finite(model, ids)
    if first is not None:
        raise NotFiniteError(_not_finite(model, *first))


def _first_not_finite(model: Any, ids: Tensor) -> tuple[str, str] | None:
    """The first module whose output is not finite in a pass over `ids`, and what it has."""
    found: list[tuple[str, str]] = []

    def watching(name: str) -> Callable[..., None]:
        def look(module: Any, given: Any, output: Any) -> None:
            for part in output if isinstance(output, tuple | list) else (output,):
                if not isinstance(part, Tensor) or not part.is_floating_point():
                    continue
                # The sum of large numbers may overflow where none of them has.
                if not bool(_sum(name, part).isfinite()) and not bool(part.isfinite().all()):
                    found.append((name, "NaN" if bool(part.isnan().any()) else "infinity"))
                    raise _LastOneSeen

        return look

    watched = attached(
        module.register_forward_hook(watching(name)) for name, module in model.named_modules()
    )
    with watched, suppress(_LastOneSeen):
        _run(model, ids, {}, return_type="logits")
    return found[0] if found else None


def _not_finite(model: Any, module: str, what: str) -> str:
    module = _WRAPPED.sub("", module)
    layer = _LAYER.match(module)
    where = f"layer {layer[1]}, at {module}" if layer else module or "its logits"
    here = ((name, w) for name, w in model.named_parameters() if not w.is_meta)
    damaged = next((name for name, w in here if not w.isfinite().all()), None)
    if damaged is None:
        way_out = (
            f"Its weights are numbers, so a value is too large for {_dtype(model)}: load the "
            "model in another precision (dtype='float32' or 'bfloat16')."
        )
    else:
        way_out = (
            f"Its weight {_WRAPPED.sub('', damaged)} holds values that are NaN or infinite: "
            "download or save the model again."
        )
    return (
        f"{model.cfg.model_name} computes {what} in {_dtype(model)} here, first in {where}. "
        f"{way_out} allow_nan=True, where a function takes it, gives its figures all the same."
    )


_LAYER = re.compile(r"blocks\.(\d+)\.")
_WRAPPED = re.compile(r"\.?_?original_component")


def _did_not_fire(name: str, model: HookedModel) -> str:
    message = f"{name} of {model.cfg.model_name} did not fire"
    if name.endswith(("hook_pattern", "hook_attn_scores")):
        message += (
            ", so the layer's attention is unknown. Load the model with "
            "attn_implementation='eager': fused attention does not give its pattern"
        )
    return f"{message}."


PatternVisitor = Callable[[int, Tensor], None]
"""`(layer, patterns ["sequence head query key"])`; the patterns are gone after the call."""


def visit_patterns(
    model: HookedModel,
    ids: Int[Tensor, "sequence position"],
    layers: Sequence[int],
    visit: PatternVisitor,
) -> None:
    """Run `ids` and show `visit` the pattern of each of `layers`, first to last.

    Raises:
        HookError: a layer's hook did not fire.
    """
    layer_of = {pattern_hook(layer): layer for layer in layers}
    visit_activations(
        model, ids, list(layer_of), lambda name, patterns: visit(layer_of[name], patterns)
    )


def patterns_of(
    model: HookedModel, ids: Int[Tensor, "sequence position"], layers: Sequence[int]
) -> dict[int, Float[Tensor, "sequence head query key"]]:
    """The patterns of the given layers, on the CPU in float32, by layer."""
    kept: dict[int, Tensor] = {}

    def keep(layer: int, patterns: Tensor) -> None:
        kept[layer] = patterns.to(device="cpu", dtype=torch.float32, copy=True)

    visit_patterns(model, ids, sorted(set(layers)), keep)
    return kept


_log = logging.getLogger(__name__)

TOLERANCE = 1e-3
"""How far logits may be from the clean run's, relative to the greatest of them."""


class LaterBlocks:
    """One batch, to be run under many changes of a model.

    1. A clean run keeps what each block puts out.
    2. What comes before a changed block is the clean run's: in a later run the blocks before it put
       out what they put out then, and compute nothing. Embedding, later blocks, final norm and
       unembedding run as they always do, in either class of model.
    3. Whether that is so is checked once, with nothing changed, from near the middle of the model,
       on the first row: a block that reads more than what the block before it put out would give
       other logits, and then every block runs.
    """

    clean: Float[Tensor, "row position d_vocab"]
    """The logits with nothing changed."""

    reuses: bool
    """Whether runs begin at the first changed block."""

    passes: float
    """How many bare forward passes of the batch have run: the share of the blocks that computed."""

    def __init__(
        self,
        model: HookedModel,
        ids: Int[Tensor, "row position"],
        *,
        layers: Collection[int] | None = None,
        reuses: bool | None = None,
    ) -> None:
        """Run the batch clean, and keep what each block puts out.

        Args:
            model: the model; hooks that are active now must be so in later runs too.
            ids: the batch, padded on the right if at all.
            layers: where later runs may begin, which is what memory it takes; None for everywhere.
            reuses: what `check` found for another batch of this model.

        Raises:
            NotFiniteError: the clean logits are NaN or infinite.
        """
        self.model, self.ids = model, ids.to(model.cfg.device)
        self.blocks: Sequence[nn.Module] = list(getattr(model, "blocks", []))
        self.passes = 0.0
        self._layers = range(len(self.blocks) + 1) if layers is None else layers
        self._outputs: dict[int, Any] = {}
        self.reuses = bool(reuses)
        with self._keeping():
            self.clean = self._forward(self.ids, 0)
        check_finite_pass(model, self.ids, self.clean)

    def check(self) -> bool:
        """Find out whether runs can begin at a later block, before anything is changed.

        Without that every block runs.
        """
        self.reuses = self._is_repeated()
        return self.reuses

    def logits(self, layer: int, repeats: int = 1) -> Float[Tensor, "row position d_vocab"]:
        """The logits as the model is now, which differs from the clean run from `layer` on.

        Args:
            layer: the first block that differs; the number of blocks where none does.
            repeats: how often every row runs, row by row.
        """
        ids = self.ids.repeat_interleave(repeats, dim=0)
        if not layer or not self.reuses:
            return self._forward(ids, 0)
        return self._from(layer, ids, lambda kept: kept.repeat_interleave(repeats, dim=0))

    def _from(self, layer: int, ids: Tensor, rows: Callable[[Tensor], Tensor]) -> Tensor:
        output = _mapped(self._outputs[layer], rows)
        with ExitStack() as stack:
            for block in self.blocks[:layer]:
                stack.enter_context(method_replaced(block, "forward", lambda *_, **__: output))
            return self._forward(ids, layer)

    def _forward(self, ids: Tensor, layer: int) -> Tensor:
        with evaluating(self.model), torch.no_grad():
            logits: Tensor = self.model(
                ids,
                return_type="logits",
                attention_mask=torch.ones_like(ids),
                **uncached(self.model),
            )
        if len(logits) != len(ids):
            raise HookError(
                f"{len(ids)} rows ran, but {self.model.cfg.model_name} gave {len(logits)}"
            )
        share = 1 - layer / max(1, len(self.blocks))
        self.passes += share * len(ids) / len(self.ids)
        return logits

    @contextmanager
    def _keeping(self) -> Iterator[None]:
        """Inside, what goes into each block of `layers` is kept, as the one before puts it out."""

        def keeper(layer: int) -> Callable[[nn.Module, Any, Any], None]:
            def keep(_: nn.Module, __: Any, output: Any) -> None:
                self._outputs[layer] = _mapped(output, Tensor.clone)

            return keep

        with attached(
            block.register_forward_hook(keeper(layer))
            for layer, block in enumerate(self.blocks, start=1)
            if layer in self._layers
        ):
            yield

    def _is_repeated(self) -> bool:
        layer = min(self._outputs, key=lambda kept: abs(kept - len(self.blocks) // 2), default=0)
        if not layer:
            return False
        again = self._from(layer, self.ids[:1], lambda kept: kept[:1])[0]
        bound = TOLERANCE * float(self.clean[0].abs().max())
        if torch.allclose(again, self.clean[0], atol=bound, rtol=0):
            return True
        _log.warning(
            "%s does not give its own logits when it is run from layer %d on, so all layers run "
            "every time.",
            self.model.cfg.model_name,
            layer,
        )
        return False


def _mapped(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A block's output, a tensor or a tuple that begins with one, with that tensor changed."""
    return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)
