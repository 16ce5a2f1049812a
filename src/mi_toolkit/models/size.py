"""How large a model is, from its config alone: asked before any weight is read.

The model is built on torch's `meta` device, which has shapes and no memory.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM

from mi_toolkit.models.checkpoints import load_config, quiet_transformers
from mi_toolkit.models.load_errors import explained
from mi_toolkit.models.sources import find_source

_BLOCK = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """Parameters of a model that need not be in memory."""

    name: str
    """As results call it."""

    n_parameters: int
    """All of them; tied embeddings once."""

    n_layers: int
    """Blocks of attention and MLP."""

    n_block_weights: int
    """Weights in the matrices of all blocks: those that are scored unless told otherwise."""

    def weights(self, bytes_each: int) -> int:
        """Bytes of the weights."""
        return self.n_parameters * bytes_each


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
    config = load_config(source, revision=revision, trust_remote_code=trust_remote_code)
    with explained(source), quiet_transformers(source, revision), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    blocks = {
        name: parameter for name, parameter in model.named_parameters() if _BLOCK.search(name)
    }
    return ModelSize(
        name=source.name,
        n_parameters=sum(parameter.numel() for parameter in model.parameters()),
        n_layers=int(config.get_text_config().num_hidden_layers),
        n_block_weights=sum(p.numel() for p in blocks.values() if p.ndim > 1),
    )
