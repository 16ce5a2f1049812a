"""Runs of one sequence under ablation that begin at the first ablated layer.

1. A clean run keeps what each block puts out.
2. What comes before an ablated layer is the clean run's: in a later run the blocks before it put
   out what they put out then, and compute nothing. Embedding, later blocks, final norm and
   unembedding run as they always do, in either class of model.
3. Whether that is so is checked once, without any ablation, from the middle of the model: a block
   that reads more than what the block before it put out would give other logits, and then every
   layer runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mi_toolkit.errors import HookError
from mi_toolkit.hooked_model import HookedModel, evaluating, uncached
from mi_toolkit.interventions.ablation.context import in_place
from mi_toolkit.interventions.ablation.target import Hooks, Target

_log = logging.getLogger(__name__)

TOLERANCE = 1e-3
"""How far logits may be from the clean run's, relative to the greatest of them."""


class LaterLayers:
    """One sequence, to be run under many ablations."""

    clean: Float[Tensor, "position d_vocab"]
    """The logits with nothing ablated."""

    reuses: bool
    """Whether runs begin at the first ablated layer."""

    def __init__(self, model: HookedModel, ids: Int[Tensor, " position"]) -> None:
        """Run the sequence clean, and keep what each block puts out.

        Args:
            model: the model; hooks that are active now must be so in later runs too.
            ids: the sequence.
        """
        self.model, self.ids = model, ids.to(model.cfg.device)[None]
        self._blocks: Sequence[nn.Module] = list(getattr(model, "blocks", []))
        self._outputs: list[Any] = []
        with _keeping(self._blocks, self._outputs):
            self.clean = self._forward(1)[0].clone()
        self.reuses = self._is_repeated()

    def logits(
        self, targets: Sequence[Target], hooks: Hooks, n_rows: int
    ) -> Float[Tensor, "row position d_vocab"]:
        """The logits under the hooks, which replace the targets; a row of them is one ablation.

        Raises:
            HookError: a target's hook did not fire.
        """
        first = min((target.layer for target in targets), default=len(self._blocks))
        with self._beginning_at(first, n_rows), in_place(self.model, targets, hooks):
            return self._forward(n_rows)

    def _forward(self, n_rows: int) -> Tensor:
        ids = self.ids.expand(n_rows, -1)
        with evaluating(self.model), torch.no_grad():
            logits: Tensor = self.model(
                ids, attention_mask=torch.ones_like(ids), **uncached(self.model)
            )
        if len(logits) != n_rows:
            raise HookError(
                f"{n_rows} rows ran, but {self.model.cfg.model_name} gave {len(logits)}"
            )
        return logits

    @contextmanager
    def _beginning_at(self, layer: int, n_rows: int) -> Iterator[None]:
        """Inside, the blocks before `layer` put out what they did in the clean run."""
        if not layer or not self.reuses:
            yield
            return
        output = _widened(self._outputs[layer - 1], n_rows)
        with _replacing_forward(self._blocks[:layer], lambda *_, **__: output):
            yield

    def _is_repeated(self) -> bool:
        layer = len(self._blocks) // 2
        if len(self._outputs) != len(self._blocks) or not layer:
            return False
        self.reuses = True
        with self._beginning_at(layer, 1):
            again = self._forward(1)[0]
        bound = TOLERANCE * float(self.clean.abs().max())
        if torch.allclose(again, self.clean, atol=bound, rtol=0):
            return True
        _log.warning(
            "%s does not give its own logits when it is run from layer %d on, so every ablation "
            "runs all layers.",
            self.model.cfg.model_name,
            layer,
        )
        return False


@contextmanager
def _keeping(blocks: Sequence[nn.Module], outputs: list[Any]) -> Iterator[None]:
    """Inside, each block's output is kept, in order."""

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        outputs.append(_mapped(output, Tensor.clone))

    handles = [block.register_forward_hook(keep) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _replacing_forward(blocks: Sequence[nn.Module], forward: Callable[..., Any]) -> Iterator[None]:
    """Inside, the blocks compute nothing; after it, each is as it was."""
    # Into the block's own dictionary: a bridge hands an attribute that is set on to the module
    # that it wraps, from where it would not be taken away again.
    own = [vars(block).get("forward") for block in blocks]
    try:
        for block in blocks:
            vars(block)["forward"] = forward
        yield
    finally:
        for block, before in zip(blocks, own, strict=True):
            vars(block).pop("forward", None)
            if before is not None:
                vars(block)["forward"] = before


def _widened(output: Any, n_rows: int) -> Any:
    return _mapped(output, lambda kept: kept.expand(n_rows, *kept.shape[1:]).contiguous())


def _mapped(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A block's output, a tensor or a tuple that begins with one, with that tensor changed."""
    return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)
