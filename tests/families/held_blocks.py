"""Hugging Face's forward with parts of its blocks taken away and others held, by plain hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mi_toolkit.core.tl_compat import checkpoint_path

Edit = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""From a module's input and output, and the residual stream where it is given that to add to, to
the output in its place."""


class HeldBlocks:
    """One prompt's blocks: their inputs and outputs, and what they would add without a part."""

    def __init__(self, subject: Any, prompt: Tensor) -> None:
        self.model, self.ours, self.prompt = subject.reference, subject.model, prompt[None]
        n_layers = int(self.ours.cfg.n_layers)
        self.blocks = [self._module(f"blocks.{layer}") for layer in range(n_layers)]
        self.final_norm = self._module("ln_final")
        self.watched = [*self.blocks, self.model.get_output_embeddings()]
        self.watched += [] if self.final_norm is None else [self.final_norm]
        for layer in range(n_layers):
            norms = [self._module(f"blocks.{layer}.ln{n}_post") for n in (1, 2)]
            self.watched += [self._mlp(layer), *(norm for norm in norms if norm is not None)]
        self.seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        self.given: dict[nn.Module, Tensor | None] = {}
        with ExitStack() as stack:
            for module in self.watched:
                stack.enter_context(edited(module, self._keep(module)))
            self.logits = self._run()
        self.before = [self.seen[block][0][0] for block in self.blocks]
        self.after = [self.seen[block][1][0] for block in self.blocks]
        self.embedding = self.before[0][-1]

    def change(self, layer: int, part: int | str) -> Tensor:
        """What a head or the MLP adds at the last position: the block's output with it, less that
        without it, all that follows in the block as it was."""
        with ExitStack() as stack:
            for place in ("ln1_post", "ln2_post"):
                norm = self._module(f"blocks.{layer}.{place}")
                if norm is not None:
                    stack.enter_context(edited(norm, self._frozen(norm)))
            mlp = self._mlp(layer)
            if part == "mlp":
                stack.enter_context(edited(mlp, self._holding(torch.zeros(()))))
            else:
                given = self.given[mlp]
                as_it_was = self.seen[mlp][1] - (0 if given is None else given)
                stack.enter_context(edited(mlp, self._holding(as_it_was)))
                stack.enter_context(self._without_head(layer, int(part)))
            without: list[Tensor] = []

            def keep(_: Tensor, out: Tensor, __: Tensor | None) -> Tensor:
                without.append(out)
                return out

            stack.enter_context(edited(self.blocks[layer], keep))
            self._run()
        return (self.after[layer] - without[0][0])[-1]

    def reader(self, target: int) -> Tensor:
        """The direction that gives a logit, the final norm's scale as it was."""
        column: Tensor = self.model.get_output_embeddings().weight[target] * self._multiplier()
        if self.final_norm is None:  # OPT without its last norm
            return column
        entered, left = (each[0, -1] for each in self.seen[self.final_norm])
        ratio, centred = self._ratio(self.final_norm, entered, left)
        column = column * ratio
        return column - column.mean() if centred else column

    def uncapped(self, target: int) -> Tensor:
        """A logit before its soft cap."""
        return self.seen[self.model.get_output_embeddings()][1][0, -1, target] * self._multiplier()

    def _multiplier(self) -> float:
        config = self.model.config
        return float(getattr(config, "logit_scale", None) or 1) / float(
            getattr(config, "logits_scaling", None) or 1
        )

    def _mlp(self, layer: int) -> Any:
        return self._module(f"blocks.{layer}.mlp") or self._module(f"blocks.{layer}.mlp.out")

    def _holding(self, write: Tensor) -> Edit:
        """The MLP writes this; BLOOM's and MPT's add it to the stream themselves."""
        return lambda _, out, given: (0 if given is None else given) + write.expand_as(out).clone()

    def _module(self, place: str) -> Any:
        path = checkpoint_path(self.ours, place)
        try:
            return None if path is None else self.model.get_submodule(path)
        except AttributeError:  # a part that this layer lacks
            return None

    def _frozen(self, norm: nn.Module) -> Edit:
        entered, left = self.seen[norm]
        ratio, centred = self._ratio(norm, entered, left)
        assert not centred
        return lambda x, _, __: x * ratio

    def _ratio(self, norm: nn.Module, entered: Tensor, left: Tensor) -> tuple[Tensor, bool]:
        """What the norm multiplied each coordinate by, and whether it took the mean off first."""
        name = type(norm).__name__
        centred = "LayerNorm" in name
        bias = getattr(norm, "bias", None)
        if centred:
            entered = entered - entered.mean(dim=-1, keepdim=True)
        return (left if bias is None else left - bias) / entered, centred

    @contextmanager
    def _without_head(self, layer: int, head: int) -> Iterator[None]:
        projection = self._module(f"blocks.{layer}.attn.o")

        def leave_out(_: Any, args: tuple[Tensor]) -> tuple[Tensor]:
            z = args[0].clone()
            z.unflatten(-1, (int(self.ours.cfg.n_heads), -1))[..., head, :] = 0
            return (z,)

        handle = projection.register_forward_pre_hook(leave_out)
        try:
            yield
        finally:
            handle.remove()

    def _keep(self, module: nn.Module) -> Edit:
        def keep(entered: Tensor, left: Tensor, given: Tensor | None) -> Tensor:
            self.seen[module] = (entered.clone(), left.clone())
            self.given[module] = None if given is None else given.clone()
            return left

        return keep

    def _run(self) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self.model(self.prompt, use_cache=False).logits[0, -1]
        return logits


@contextmanager
def edited(module: nn.Module, edit: Edit) -> Iterator[None]:
    """Inside, the module gives what `edit` makes of its first input and its output."""

    def put(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        entered = args[0] if args else kwargs["hidden_states"]
        adds = len(args) > 1 and "MLP" in type(module).__name__ and isinstance(args[1], Tensor)
        given = args[1] if adds else None
        if isinstance(output, Tensor):
            return edit(entered, output, given)
        return (edit(entered, output[0], given), *output[1:])

    handle = module.register_forward_hook(put, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
