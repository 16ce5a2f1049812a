"""Blocks whose weights stay in their files: read when a block runs, let go for the next one.

1. Such a model is loaded with the weights of its blocks on torch's `meta` device, which has shapes
   and no memory; embeddings, the last norm and the unembedding are in memory.
2. Before a block runs, or its weights are looked at, they are read. The first `at_a_time - 1`
   blocks stay; of the others one is there at a time.
3. What TransformerLens made of a block's weights as it hooked the model (queries, keys and values
   of a fused projection) is made again, by the function that made it.

A figure is that of the model in memory: the same values run through the same modules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mi_toolkit.core.errors import UnsupportedModelError

WAY_OUT = "Load it without layers_at_a_time (--layers-at-a-time), where its weights fit in memory."

_SPLIT: Mapping[str, tuple[str, ...]] = {
    "split_qkv_matrix": ("q", "k", "v"),
    "split_gate_up_matrix": ("gate", "in"),
}
"""By the name of what takes a fused projection apart: the modules that the parts go into."""

Read = Callable[[], Tensor]


class BlocksOnDisk:
    """The blocks of one model, and where each of their weights is read from."""

    when_read: Callable[[int, nn.Module], None] | None = None
    """Shown each block that was read, with its number."""

    def __init__(
        self,
        name: str,
        blocks: Sequence[nn.Module],
        sources: Sequence[Mapping[tuple[nn.Module, str], Read]],
        at_a_time: int,
        device: torch.device,
    ) -> None:
        """Wait for each block to run.

        Args:
            name: of the model, for errors.
            blocks: as Hugging Face runs them.
            sources: of each block, by module and parameter: what reads it, in the model's dtype.
            at_a_time: the most blocks that are in memory together.
            device: where they run.
        """
        self.name, self.blocks = name, list(blocks)
        self.at_a_time, self.device = at_a_time, device
        self._sources = [dict(each) for each in sources]
        self._modules = [set(block.modules()) for block in self.blocks]
        self._split: list[list[tuple[Any, str]]] = [[] for _ in blocks]
        self._held: dict[int, list[tuple[nn.Module, str, nn.Parameter | None]]] = {}
        for layer, block in enumerate(self.blocks):
            block.register_forward_pre_hook(BringsBlock(self, layer), with_kwargs=True)

    def hooked(self, blocks: Sequence[nn.Module]) -> None:
        """Take note of what TransformerLens made of the blocks.

        Raises:
            UnsupportedModelError: it made weights in a way that is not known here.
        """
        self._let_go(*self._held)
        self._modules = [set(block.modules()) for block in blocks]
        for layer, block in enumerate(blocks):
            self._split[layer] = [
                (module, way) for module in block.modules() for way in _SPLIT if way in vars(module)
            ]
            made = {
                (getattr(owner, name).original_component, parameter)
                for owner, way in self._split[layer]
                for name in _SPLIT[way]
                for parameter in ("weight", "bias")
            }
            for path, module in block.named_modules():
                for parameter, value in module._parameters.items():
                    known = (module, parameter) in self._sources[layer].keys() | made
                    if value is not None and value.is_meta and not known:
                        raise UnsupportedModelError(
                            f"{self.name} cannot run with its blocks on disk: how TransformerLens "
                            f"makes {path}.{parameter} of layer {layer} of the weights in the file "
                            f"is not known. {WAY_OUT}"
                        )

    def bring(self, layer: int) -> None:
        """Have the weights of a block in memory."""
        if layer in self._held:
            return
        self._let_go(*(each for each in self._held if each >= self.at_a_time - 1))
        self._held[layer] = []
        try:
            self._read(layer)
        except BaseException:  # a block is there as a whole, or not at all
            self._let_go(layer)
            raise

    def _read(self, layer: int) -> None:
        def put(module: nn.Module, name: str, value: Tensor) -> None:
            self._held[layer].append((module, name, module._parameters[name]))
            module._parameters[name] = nn.Parameter(value, requires_grad=False)

        for (module, name), read in self._sources[layer].items():
            # A copy: what is read may be a map of the whole file.
            put(module, name, read().to(self.device, copy=True))
        if self.when_read is not None:
            self.when_read(layer, self.blocks[layer])
        for owner, way in self._split[layer]:
            parts = getattr(owner, way)(owner.original_component)
            for name, part in zip(_SPLIT[way], parts, strict=True):
                for parameter, value in part.named_parameters():
                    put(getattr(owner, name).original_component, parameter, value.detach())

    def layer_of(self, module: nn.Module) -> int:
        """The block that a module with weights is in."""
        return next(l for l, own in enumerate(self._modules) if module in own)

    def _let_go(self, *layers: int) -> None:
        for layer in layers:
            for module, name, empty in self._held.pop(layer):
                module._parameters[name] = empty


class BringsBlock:
    """A hook before a block: its weights are brought. An object, so that it is copied with them."""

    def __init__(self, blocks: BlocksOnDisk, layer: int) -> None:
        self.blocks, self.layer = blocks, layer

    def __call__(self, block: nn.Module, given: Any, named: Any) -> None:
        """Bring them.

        Raises:
            UnsupportedModelError: gradients are to be taken.
        """
        tensors = (each for each in (*given, *named.values()) if isinstance(each, Tensor))
        if torch.is_grad_enabled() and any(each.requires_grad for each in tensors):
            raise UnsupportedModelError(
                f"Gradients of {self.blocks.name} go back through the weights of all its blocks, "
                f"and {self.blocks.at_a_time} of them are in memory at a time. {WAY_OUT}"
            )
        self.blocks.bring(self.layer)


_ATTRIBUTE = "_mi_toolkit_blocks_on_disk"


def keep_with(hf_model: nn.Module, blocks: BlocksOnDisk) -> None:
    """Have a Hugging Face model know its blocks."""
    vars(hf_model)[_ATTRIBUTE] = blocks


def blocks_on_disk(model: Any) -> BlocksOnDisk | None:
    """The blocks of a model, hooked or not, that are on disk; None where it is in memory."""
    found: BlocksOnDisk | None = vars(getattr(model, "original_model", model)).get(_ATTRIBUTE)
    return found


def bring(model: Any, layer: int) -> None:
    """Have the weights of a block in memory, before they are looked at."""
    blocks = blocks_on_disk(model)
    if blocks is not None:
        blocks.bring(layer)


def bring_for(model: Any, module: nn.Module) -> None:
    """Have a module's own weights in memory, whichever block it is in."""
    blocks = blocks_on_disk(model)
    if blocks is not None and any(each.is_meta for each in module.parameters(recurse=False)):
        blocks.bring(blocks.layer_of(module))


def require_in_memory(model: Any, asking: str) -> None:
    """Check that all weights of a model are in memory.

    Raises:
        UnsupportedModelError: they are read block by block; `asking` cannot be done then.
    """
    blocks = blocks_on_disk(model)
    if blocks is not None:
        raise UnsupportedModelError(
            f"{asking} of {blocks.name} needs all its weights in memory, and its blocks are on "
            f"disk. {WAY_OUT}"
        )
