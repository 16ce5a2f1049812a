"""Runs of one batch that begin at a later block: what comes before it is as it was.

1. A clean run keeps what each block puts out.
2. What comes before a changed block is the clean run's: in a later run the blocks before it put out
   what they put out then, and compute nothing. Embedding, later blocks, final norm and unembedding
   run as they always do, in either class of model.
3. Whether that is so is checked once, with nothing changed, from near the middle of the model, on
   the first row: a block that reads more than what the block before it put out would give other
   logits, and then every block runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mi_toolkit.core.errors import HookError
from mi_toolkit.core.model import HookedModel, attached, evaluating, method_replaced, uncached
from mi_toolkit.core.passes import check_finite_pass

_log = logging.getLogger(__name__)

TOLERANCE = 1e-3
"""How far logits may be from the clean run's, relative to the greatest of them."""


class LaterBlocks:
    """One batch, to be run under many changes of a model."""

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
