"""Untrained twins: models of the same config with the weights that training begins from.

1. The architecture initialises itself: transformers' own code on the model's config, or
   TransformerLens' where the architecture is TransformerLens' own.
2. It is hooked as the model is, with the model's tokenizer, in its dtype, on its device.
3. The random numbers are drawn on the CPU and aside: the caller's own go on as if nothing had been.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel

from mi_toolkit.core import tl_compat as transformer_lens_door
from mi_toolkit.core.errors import ModelLoadError, UnknownNameError, UnsupportedModelError
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.process_state import one_job
from mi_toolkit.models.checkpoints import load_config
from mi_toolkit.models.load import load_model
from mi_toolkit.models.sources import find_source


@one_job
def untrained_twin(model: HookedModel, *, seed: int = 0) -> HookedModel:
    """A model of the same config with fresh weights, as it was before its training.

    Args:
        model: any hooked model; it is left as it is.
        seed: which twin: equal seeds give equal weights, on any device.

    Raises:
        UnsupportedModelError: nothing says how the model is initialised, or it is spread over
            devices.

    Example:
        >>> from mi_toolkit.models.load import load_model
        >>> twin = untrained_twin(load_model("toy-gpt2"), seed=3)
        >>> twin.cfg.n_layers, bool((twin.W_E == load_model("toy-gpt2").W_E).any())
        (4, False)
    """
    parameter = next(iter(_parameters(model)))
    with _numbers_drawn_aside(parameter.device, seed):
        config = _config_of(model)
        if config is None:
            twin = transformer_lens_door.initialised_again(model)
        else:
            twin = _by_transformers(model, config, parameter)
    twin.cfg.revision = getattr(model.cfg, "revision", None)
    return twin


def initialisation_of(model: HookedModel) -> str:
    """Whose code gives a twin of the model its weights, in words.

    Raises:
        UnsupportedModelError: as `untrained_twin` does.
    """
    config = _config_of(model)
    if config is None:
        return f"TransformerLens' {type(model).__name__}, mode {model.cfg.init_mode}"
    return f"transformers' {_causal_class(model, config)}"


def _parameters(model: Any) -> Iterator[torch.nn.Parameter]:
    parameters: Iterator[torch.nn.Parameter] = model.parameters()
    return parameters


@contextmanager
def _numbers_drawn_aside(device: torch.device, seed: int) -> Iterator[None]:
    """Torch's own source of random numbers seeded inside, and where it was after it."""
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        torch.device("cpu"),
    ):
        # Not torch.manual_seed, which seeds every device, forked or not.
        torch.default_generator.manual_seed(seed)
        yield


def _config_of(model: Any) -> Any:
    """A copy of the Hugging Face config; None where TransformerLens alone knows the architecture.

    Raises:
        UnsupportedModelError: there should be one, and is none.
    """
    name = model.cfg.model_name
    wrapped = getattr(model, "original_model", None)
    if isinstance(wrapped, PreTrainedModel):
        if len(set(map(str, (getattr(wrapped, "hf_device_map", None) or {}).values()))) > 1:
            raise UnsupportedModelError(
                f"{name} is spread over devices, and an untrained twin is made on one: load a "
                "smaller model, or this one on one device."
            )
        return copy.deepcopy(wrapped.config)
    if wrapped is not None:
        raise UnsupportedModelError(
            f"{name} wraps a {type(wrapped).__name__}, which has no Hugging Face config to "
            "initialise an untrained twin from: load the model with load_model, or make twins of "
            "your own and classify their heads."
        )
    if not hasattr(transformers, str(model.cfg.original_architecture)):
        return None
    try:
        return load_config(
            find_source(name),
            revision=getattr(model.cfg, "revision", None),
            trust_remote_code=False,
        )
    except (UnknownNameError, ModelLoadError) as error:
        raise UnsupportedModelError(
            f"{name} is a {model.cfg.original_architecture}, and its Hugging Face config, which an "
            f"untrained twin is initialised from, is not here: {error}"
        ) from error


def _causal_class(model: HookedModel, config: Any) -> str:
    wrapped = getattr(model, "original_model", None)
    return str(model.cfg.original_architecture) if wrapped is None else type(wrapped).__name__


def _by_transformers(model: HookedModel, config: Any, parameter: torch.nn.Parameter) -> HookedModel:
    wanted = _causal_class(model, config)
    try:
        fresh = AutoModelForCausalLM.from_config(
            config, dtype=parameter.dtype, attn_implementation="eager"
        )
    except ValueError as error:
        raise UnsupportedModelError(
            f"transformers builds no causal language model from the config of "
            f"{model.cfg.model_name} ({wanted}), so there is no untrained twin of it: {error}"
        ) from error
    if type(fresh).__name__ != wanted:
        raise UnsupportedModelError(
            f"From the config of {model.cfg.model_name}, a {wanted}, transformers builds a "
            f"{type(fresh).__name__}: no untrained twin of it."
        )
    return load_model(
        model.cfg.model_name,
        backend="bridge" if hasattr(model, "original_model") else "hooked",
        device=parameter.device,
        hf_model=fresh,
        tokenizer=model.tokenizer,
    )
