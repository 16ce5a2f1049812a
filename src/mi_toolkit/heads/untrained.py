"""The control that costs no training: the same protocol on models that never learnt anything.

1. A twin of the model's config is initialised by its architecture's own code.
2. Its heads are classified on the stimuli that the model's heads are classified on.
3. Of each behaviour its strongest head is kept, and the twin is dropped before the next one.

A figure that an untrained twin reaches says nothing of what the model learnt (Méloux et al. 2025,
arXiv:2512.18792: analyses find plausible explanations in randomly initialised networks, too).

An untrained twin has the weights that training begins from: transformers' own code on the model's
config initialises it, or TransformerLens' where the architecture is TransformerLens' own. It is
hooked as the model is, with its tokenizer, in its dtype, on its device. The random numbers are
drawn on the CPU and aside: the caller's own go on as if nothing had been.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from jaxtyping import Float
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from mi_toolkit.core import tl_compat
from mi_toolkit.core.blocks_on_disk import require_in_memory
from mi_toolkit.core.errors import (
    BehaviourError,
    ModelLoadError,
    UnknownNameError,
    UnsupportedModelError,
)
from mi_toolkit.core.memory import own_garbage
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.process_state import one_job
from mi_toolkit.core.progress import track
from mi_toolkit.core.tokens import Prompt
from mi_toolkit.heads.classify import classify_heads
from mi_toolkit.heads.control import UntrainedControl
from mi_toolkit.heads.kinds import Behaviour, Weighting
from mi_toolkit.heads.labels import DEFAULT_FDR, DEFAULT_MIN_LIFT
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.models.checkpoints import load_config
from mi_toolkit.models.load import load_model
from mi_toolkit.models.sources import find_source


@one_job
def untrained_control(
    model: HookedModel,
    prompt: Prompt | None = None,
    *,
    n: int = 20,
    behaviours: Sequence[str | Behaviour] | None = None,
    min_lift: float = DEFAULT_MIN_LIFT,
    fdr: float | None = DEFAULT_FDR,
    require_copying: bool = False,
    weighting: Weighting = "prompts",
    prepend_bos: bool | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> UntrainedControl:
    """How high the strongest head of untrained models of the same config scores.

    `classify_heads` on `n` models with fresh weights, one in memory at a time next to yours. Takes
    `n` classifications. Your model and torch's random numbers are left as they are.

    What an untrained model can show depends on the behaviour. Its attention is close to uniform, so
    lifts are near 0, while `diffuse` and `positional` are near 1 and every head is `global`: those
    labels alone are no sign of training.

    Args:
        model: any hooked model, with a Hugging Face config or one of TransformerLens.
        prompt: as in `classify_heads`: what the report was measured on.
        n: how many twins.
        behaviours: as in `classify_heads`.
        min_lift: as in `classify_heads`.
        fdr: as in `classify_heads`.
        require_copying: as in `HeadReport.label`.
        weighting: as in `classify_heads`.
        prepend_bos: as in `classify_heads`.
        batch_size: as in `classify_heads`.
        seed: of the stimuli, as in `classify_heads`; twin i is initialised with `seed + i`.
        progress: a progress bar; None: where somebody looks and it takes long.

    Raises:
        BehaviourError: no twin is asked for.
        UnsupportedModelError: nothing says how the model is initialised.
        MIToolkitError: as `classify_heads` does.

    Example:
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> control = mi.untrained_control(model, "one two three one two three", n=2)
        >>> control["induction"].shape
        torch.Size([2])
    """
    if n < 1:
        raise BehaviourError(f"An untrained control needs at least one twin, not {n}.")
    initialisation = initialisation_of(model)

    def report_of_twin(index: int) -> HeadReport:
        return classify_heads(
            untrained_twin(model, seed=seed + index),
            prompt,
            behaviours=behaviours,
            min_lift=min_lift,
            fdr=fdr,
            weighting=weighting,
            prepend_bos=prepend_bos,
            batch_size=batch_size,
            seed=seed,
            progress=False,
        )

    strongest, labelled = [], []
    for index in track(
        range(n), total=n, label="classifying untrained twins", unit="model", show=progress
    ):
        with own_garbage():  # the next twin needs the room of this one
            report = report_of_twin(index).label(require_copying=require_copying)
        strongest.append(_strongest_heads(report))
        labelled.append(list(_labelled_heads(report).values()))
    return UntrainedControl(
        behaviours=report.behaviours,
        strongest=torch.stack(strongest, dim=1),
        label_names=tuple(_labelled_heads(report)),
        labelled=torch.tensor(labelled, dtype=torch.long).T.contiguous(),
        n_heads=len(report.all_heads),
        stimulus=dict(report.stimulus),
        min_lift=min_lift,
        fdr=fdr,
        require_copying=require_copying,
        initialisation=initialisation,
        weighting=weighting,
        provenance=report.provenance,
    )


def _labelled_heads(report: HeadReport) -> dict[str, int]:
    """How many heads carry each label, and each scope that says something."""
    scopes = report.scope_names[:-1] if "locality" in report.behaviours else ()
    return {name: len(report.heads(name)) for name in (*report.label_names, *scopes)}


def _strongest_heads(report: HeadReport) -> Float[Tensor, " behaviour"]:
    """The highest figure of any head, behaviour by behaviour; NaN where no head has one."""
    highest = [report[name].nan_to_num(-torch.inf).max() for name in report.behaviours]
    figures = torch.stack(highest)
    return figures.masked_fill(figures.isinf(), math.nan)


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
            twin = tl_compat.initialised_again(model)
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
    require_in_memory(model, "An untrained twin")
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
