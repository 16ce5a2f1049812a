"""How much memory a task takes on a model, by the model's config and before a weight is read.

The peak of a process of its own, in bytes, is the sum of what is known to lie in memory at once:

1. Python with what it imports, and what a task imports;
2. the vocabulary: tokenizer, and the logits of the probe that a model proves itself by;
3. the weights: all of them, or those outside the blocks and those of a few blocks; queries, keys
   and values once more where TransformerLens copies them out of a fused projection;
4. gradients, a second copy of the model, or a file's worth of activations, where the task has them;
5. a pass: so many tokens at so many numbers each; logits of them; for gradients, every layer's; or
   what is made of the gradients after it, where that is more.

With the blocks on disk it is the peak of what follows the loading: transformers looks through the
whole file as it loads, pages of a map, which the system takes back where memory is short.

`tests/models/test_plan.py` holds it to the measured peaks of processes, within 15%.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from mi_toolkit.core.errors import unknown_name
from mi_toolkit.core.model import HookedModel
from mi_toolkit.models.checkpoints import explained, load_config, quiet_transformers
from mi_toolkit.models.describe import mlp_width
from mi_toolkit.models.sources import Source, find_source
from mi_toolkit.models.streamed import block_stack, skeleton

MEBIBYTE = 2**20

IMPORTS = 485 * MEBIBYTE
"""Python, torch, transformers, TransformerLens, and the code of a family."""

OF_TOKEN = 2_000
"""Bytes for each token of the vocabulary: tokenizers, and the probe's logits."""

FIGURES_OF_ROW = 30
"""Numbers for each token and head while figures are taken of rows of attention."""

FLOAT = 4

SHARD_BYTES = 256 * MEBIBYTE
"""Of activations that wait in memory until a file of a store is full, unless told otherwise."""

_SPLIT = re.compile(r"\.(query_key_value|qkv_proj|Wqkv|wqkv|W_pack|gate_up_proj)\.")
"""Fused projections that TransformerLens copies the parts out of (those of GPT-2 it looks into)."""


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """The sizes of a model that need not be in memory."""

    name: str
    """Name of the model, as results give it."""

    n_parameters: int
    """All of them; tied embeddings once."""

    n_layers: int
    """Blocks of attention and MLP."""

    n_block_weights: int
    """Weights in the matrices of all blocks: those that are scored unless told otherwise."""

    n_active_weights: int = 0
    """Of those: what a token runs through. Of a mixture's experts, as many as the router chooses:
    one, where the config does not say how many; all, where nothing says how many there are."""

    in_blocks: int = 0
    """Parameters of all blocks together."""

    split: int = 0
    """Of those: what a hooked model has once more, taken out of fused projections."""

    n_heads: int = 0
    d_model: int = 0
    d_mlp: int = 0
    d_vocab: int = 0

    def weights(self, bytes_each: int) -> int:
        """Bytes of the weights."""
        return self.n_parameters * bytes_each


def n_parameters(model: HookedModel) -> int:
    """How many parameters a model has; tied embeddings once.

    Of a bridge they are Hugging Face's: it holds queries, keys and values of a fused projection
    once more.
    """
    found: Any = model
    if (hf_model := getattr(model, "original_model", None)) is not None:
        with torch.device("meta"):
            # Of a copy: what builds a model writes into its config.
            found = type(hf_model)(deepcopy(hf_model.config))
    return sum(each.numel() for each in found.parameters())


def size_of(name: str, model: Any) -> ModelSize:
    """The sizes of a Hugging Face model, which may be on torch's `meta` device."""
    config, stack = model.config.get_text_config(), block_stack(model)
    blocks = model.get_submodule(stack) if stack else nn.ModuleList()
    inside = list(blocks.named_parameters())
    return ModelSize(
        name=name,
        n_parameters=sum(each.numel() for each in model.parameters()),
        n_layers=int(config.num_hidden_layers),
        n_block_weights=sum(each.numel() for _, each in inside if each.ndim > 1),
        n_active_weights=sum(_active(path, each, config) for path, each in inside),
        in_blocks=sum(each.numel() for _, each in inside),
        split=sum(each.numel() for path, each in inside if _SPLIT.search(path)),
        n_heads=int(getattr(config, "num_attention_heads", 0)),
        d_model=int(config.hidden_size),
        d_mlp=mlp_width(config),
        d_vocab=int(config.vocab_size),
    )


_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
"""What configs call the number of a layer's experts among which its router chooses."""


def _active(path: str, weights: Tensor, config: Any) -> int:
    """How many of a parameter's weights a token is multiplied with."""
    if weights.ndim == 1:
        return 0
    if ".experts." not in path:
        return weights.numel()
    n = next((found for name in _EXPERTS if (found := getattr(config, name, None))), 1)
    if weights.ndim == 3:  # those of all experts in one tensor
        n = len(weights)
    chosen = getattr(config, "num_experts_per_tok", None) or 1
    return weights.numel() * min(chosen, n) // n


def model_size(
    name: str | os.PathLike[str], *, revision: str | None = None, trust_remote_code: bool = False
) -> ModelSize:
    """The size of a model by any name that `load_model` takes.

    >>> model_size("toy-gpt2").n_layers
    4

    Raises:
        UnknownNameError: nothing is called so.
        ModelLoadError: its config is missing, unreachable, gated, or no causal language model's.
    """
    source = find_source(name, revision=revision)
    return source_size(source, revision=revision, trust_remote_code=trust_remote_code)


def source_size(
    source: Source, *, revision: str | None = None, trust_remote_code: bool = False
) -> ModelSize:
    """The size of a model at a place that was found already.

    Raises:
        ModelLoadError: as `model_size` does.
    """
    config = load_config(source, revision=revision, trust_remote_code=trust_remote_code)
    return config_size(source, config, trust_remote_code=trust_remote_code)


def config_size(source: Source, config: Any, *, trust_remote_code: bool = False) -> ModelSize:
    """The size of a model by its config.

    Raises:
        ModelLoadError: transformers builds no model of it.
    """
    with explained(source), quiet_transformers(source, None):
        return size_of(source.name, skeleton(config, trust_remote_code=trust_remote_code))


def held_parameters(size: ModelSize, layers: int | None) -> int:
    """Parameters in memory: all, or those outside the blocks and of so many blocks."""
    blocks = size.in_blocks + size.split
    if layers is not None:
        blocks = -(-blocks * min(layers, size.n_layers) // size.n_layers)
    return size.n_parameters - size.in_blocks + blocks


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What a task does, as far as memory and time follow from it."""

    sequences: int
    """To a pass, at most: a smaller batch takes less memory."""

    length: int
    """Tokens of a sequence."""

    tokens: int
    """That run in all, by the standard protocol or bundled texts."""

    fixed: int = 30 * MEBIBYTE
    """What it imports, and tables."""

    logits: bool = False
    """Whether the pass goes on to the unembedding."""

    figures: bool = False
    """Whether figures are taken of rows of attention."""

    waiting: int = 0
    """Bytes of results that wait to be written."""

    scores: bool = False
    """Whether weights have gradients, and after the passes scores that are made of them."""

    models: int = 1
    """Copies of the model in memory."""

    by_layer: bool = True
    """Whether it can run with the blocks on disk."""


WORKLOADS: Mapping[str, Workload] = MappingProxyType(
    {
        "classify": Workload(
            sequences=31, length=129, tokens=10_600, figures=True, fixed=75 * MEBIBYTE
        ),
        "confirm": Workload(sequences=8, length=129, tokens=1_000_000, logits=True),
        # What waits lies between what each pass freed, so that the heap keeps some of that too.
        "record": Workload(
            sequences=16, length=128, tokens=100_000, waiting=SHARD_BYTES, fixed=130 * MEBIBYTE
        ),
        "statistics": Workload(sequences=16, length=128, tokens=100_000),
        "score_weights": Workload(
            sequences=8, length=128, tokens=3_500, logits=True, scores=True, by_layer=False
        ),
        "ablation_sweep": Workload(sequences=16, length=16, tokens=5_000, logits=True),
        "verify": Workload(
            sequences=2, length=128, tokens=2_000, logits=True, models=2, by_layer=False
        ),
    }
)
"""By task, as sweeps call them."""


def workload(task: str) -> Workload:
    """What a task does.

    Raises:
        UnknownNameError: there is no such task.
    """
    if task not in WORKLOADS:
        raise unknown_name("task", task, WORKLOADS)
    return WORKLOADS[task]


def memory_parts(
    size: ModelSize,
    task: Workload,
    *,
    itemsize: int,
    sequences: int | None = None,
    layers: int | None = None,
) -> dict[str, int]:
    """What lies in memory at the peak of a task, in bytes, by part.

    Args:
        size: of the model.
        task: what it does.
        itemsize: bytes of a weight.
        sequences: to a pass; None for what the task takes by itself.
        layers: blocks in memory at a time; None for all.
    """
    outside = size.n_parameters - size.in_blocks
    gradients = size.n_block_weights * FLOAT if task.scores else 0
    tokens = task.length * (task.sequences if sequences is None else sequences)
    of_pass = tokens * itemsize * (8 * size.d_model + 4 * size.d_mlp)
    if task.figures:
        of_pass += tokens * FLOAT * FIGURES_OF_ROW * size.n_heads
    if task.logits:
        of_pass += 3 * tokens * FLOAT * size.d_vocab
    if task.scores:  # every layer's activations wait for the way back
        of_layer = 14 * size.d_model + 5 * size.d_mlp + 2 * size.n_heads * task.length
        of_pass += tokens * itemsize * size.n_layers * of_layer
    return {
        "imports": IMPORTS + task.fixed,
        "vocabulary": OF_TOKEN * size.d_vocab,
        "embeddings": task.models * outside * itemsize,
        "blocks": (held_parameters(size, layers) - outside) * itemsize
        + (task.models - 1) * size.in_blocks * itemsize,
        "gradients": gradients,
        "waiting to be written": task.waiting,
        "a pass": max(of_pass, gradients),  # or the scores after it
    }


def peak_bytes(size: ModelSize, task: str, *, itemsize: int, layers: int | None = None) -> int:
    """The peak of a task on a model, with its own batches."""
    return sum(memory_parts(size, workload(task), itemsize=itemsize, layers=layers).values())
