"""Loading a model whose blocks stay on disk (`core.blocks_on_disk`).

1. transformers reads the checkpoint with the blocks on "disk", accelerate's word: safetensors are
   left where they are; what has another format or another layout is written to a temporary folder,
   which goes with the model.
2. accelerate's hooks know where each weight is. They are taken over and off: they bring one matrix
   at a time, to Hugging Face's modules, and a hooked model reads its weights elsewhere too.
"""

from __future__ import annotations

import logging
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from accelerate.hooks import AlignDevicesHook, SequentialHook, remove_hook_from_module
from torch import nn
from transformers import AutoModelForCausalLM

from mi_toolkit.core.blocks_on_disk import WAY_OUT, BlocksOnDisk, Read, keep_with
from mi_toolkit.core.errors import ModelLoadError, UnsupportedModelError
from mi_toolkit.models.checkpoints import explained, load_weights, quiet_transformers
from mi_toolkit.models.sources import Source


def skeleton(config: Any, *, trust_remote_code: bool = False) -> Any:
    """The Hugging Face model of a config on torch's `meta` device: shapes, and no memory."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)


def block_stack(model: Any) -> str | None:
    """Where a Hugging Face model has its blocks: `transformer.h`; None where that is not seen."""
    n_layers = int(model.config.get_text_config().num_hidden_layers)
    stacks = (
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == n_layers
    )
    return next(stacks, None)


def load_with_blocks_on_disk(
    source: Source,
    config: Any,
    *,
    at_a_time: int,
    dtype: torch.dtype,
    device: torch.device,
    revision: str | None,
    trust_remote_code: bool,
    **options: Any,
) -> Any:
    """The Hugging Face model of `source`, at most `at_a_time` of its blocks in memory.

    Raises:
        ModelLoadError: as `load_weights` does, or `at_a_time` is no number of blocks.
        UnsupportedModelError: the model's blocks are not found, or hold weights of a kind that
            cannot be left on disk.
    """
    if at_a_time < 1:
        raise ModelLoadError(f"layers_at_a_time is 1 or more, or None; not {at_a_time}.")
    if source.adapter is not None or source.gguf_file is not None:
        kind = "an adapter" if source.adapter is not None else "a GGUF file"
        raise ModelLoadError(
            f"{source.name} is {kind}, which is read as a whole: load it once without "
            "layers_at_a_time (--layers-at-a-time), where there is memory for it."
        )
    with explained(source), quiet_transformers(source, revision):
        shapes = skeleton(config, trust_remote_code=trust_remote_code)
    stack = block_stack(shapes)
    if stack is None:
        raise UnsupportedModelError(f"{source.name} has no one list of its blocks. {WAY_OUT}")
    folder = tempfile.TemporaryDirectory(prefix="mi_toolkit-")
    with _quiet_accelerate():
        model = load_weights(
            source,
            config,
            dtype=dtype,
            device=device,
            revision=revision,
            trust_remote_code=trust_remote_code,
            device_map=dict.fromkeys(_around(shapes, stack), str(device)) | {stack: "disk"},
            offload_folder=folder.name,
            **options,
        )
    weakref.finalize(model, folder.cleanup)
    blocks = list(model.get_submodule(stack))
    sources = [_sources(source.name, block) for block in blocks]
    remove_hook_from_module(model, recurse=True)
    del model.hf_device_map  # nothing is spread: what runs, runs on one device
    _own_memory(model)
    keep_with(model, BlocksOnDisk(source.name, blocks, sources, at_a_time, device))
    return model


def _own_memory(model: nn.Module) -> None:
    """Copy what is in memory out of the map of the whole file, which goes with the last of it.

    Of a map, memory holds what was touched and as much around it as the system likes: of a file
    with blocks of a few MiB, most.
    """
    for each in model.parameters():
        if not each.is_meta:
            each.data = each.data.clone()


@contextmanager
def _quiet_accelerate() -> Iterator[None]:
    """Inside, accelerate does not warn of what was asked of it."""
    accelerate = logging.getLogger("accelerate.big_modeling")
    level = accelerate.level
    accelerate.setLevel(logging.ERROR)
    try:
        yield
    finally:
        accelerate.setLevel(level)


def _around(model: nn.Module, stack: str) -> Iterator[str]:
    """What a model has next to its blocks: its parts, and those of the parts that hold blocks."""
    *owners, _ = stack.split(".")
    holders = [".".join(owners[:depth]) for depth in range(len(owners) + 1)]
    for holder in holders:
        module = model.get_submodule(holder)
        own = (*dict(module.named_children()), *dict(module.named_parameters(recurse=False)))
        paths = (f"{holder}.{name}".lstrip(".") for name in own)
        yield from (path for path in paths if path not in (*holders, stack))


def _sources(name: str, block: nn.Module) -> Mapping[tuple[nn.Module, str], Read]:
    """What reads each weight of a block."""
    found: dict[tuple[nn.Module, str], Read] = {}
    for path, module in block.named_modules():
        hook = getattr(module, "_hf_hook", None)
        hooks = hook.hooks if isinstance(hook, SequentialHook) else (hook,)
        maps = [each.weights_map for each in hooks if isinstance(each, AlignDevicesHook)]
        where = next((each for each in maps if each is not None), None)
        for parameter, value in module._parameters.items():
            if value is None:
                continue
            if where is None or not value.is_meta:
                raise UnsupportedModelError(
                    f"{path}.{parameter} of {name} cannot be left on disk. {WAY_OUT}"
                )
            found[module, parameter] = partial(where.__getitem__, parameter)
    return found
