"""`load_model`: any causal language model, by name or path, hooked and ready to be looked at.

1. The name becomes a place (`sources`), the place a config, weights and a tokenizer
   (`checkpoints`), all by transformers, so that dtype, revision and cache are the user's.
2. TransformerLens wraps that very model (`transformer_lens_door`): no second copy of the
   weights, nothing folded, nothing centred.
"""

from __future__ import annotations

import os
from typing import Any

import torch

from mi_toolkit import transformer_lens_door
from mi_toolkit.errors import ModelLoadError, UnknownNameError, unknown_name
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.models.checkpoints import (
    causal_architecture,
    load_config,
    load_tokenizer,
    load_weights,
)
from mi_toolkit.models.gguf_cache import converted, header_parsed_once, keep
from mi_toolkit.models.registry import find_known
from mi_toolkit.models.sources import Source, cached_snapshot, find_source

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_BACKENDS = ("auto", "bridge", "hooked")


def load_model(
    name: str | os.PathLike[str],
    *,
    backend: str = "auto",
    device: str | torch.device | None = None,
    device_map: str | None = None,
    dtype: str | torch.dtype = "float32",
    revision: str | None = None,
    attn_implementation: str = "eager",
    trust_remote_code: bool = False,
    hf_model: Any = None,
    tokenizer: Any = None,
    cache: bool = True,
) -> HookedModel:
    """A causal language model with hook points: in eval mode, without gradients, weights raw.

    >>> model = load_model("toy-gpt2")
    >>> model.cfg.n_layers, model.training
    (4, False)

    Args:
        name: a known name or alias (`mi-toolkit models --all` lists them), any hub id, a folder
            that `save_pretrained` wrote, a `.gguf` file, or, beside `hf_model`, what to call it.
        backend: `auto` and `bridge` give a `TransformerBridge`, which runs Hugging Face's own
            code. `hooked` gives a `HookedTransformer` (TransformerLens 3, official names only),
            which holds the weights twice while it loads.
        device: `None` takes CUDA where there is one and the CPU elsewhere. Apple's `mps` has to
            be asked for: TransformerLens knows it to give wrong numbers.
        device_map: how to spread the model over devices, as transformers takes it: `auto`,
            `balanced`, `sequential`, or one device. Instead of `device`.
        dtype: `float32`, `float16` or `bfloat16`. The weights load in it; where the file has
            another, each tensor is converted as it is read.
        revision: a branch, tag or commit of the hub repo, such as Pythia's `step1000`.
        attn_implementation: attention patterns exist in `eager` attention only; `sdpa` is for
            runs that need none.
        trust_remote_code: let the repo's own Python code run.
        hf_model: a Hugging Face model already in memory. It is taken over: its modules are
            wrapped in place, its attention implementation is set, its gradients are off. It keeps
            its own dtype, and its own device unless `device` says another.
        tokenizer: a tokenizer to use instead of the model's own. It is copied.
        cache: keep what is converted from a GGUF file as safetensors beside the hub's cache
            (`HF_HOME/assets/mi_toolkit/gguf`), where the next load finds it. False neither reads
            nor writes there.

    Raises:
        UnknownNameError: nothing is called `name`, or `backend` or `dtype` is none of those.
        UnsupportedModelError: TransformerLens has no adapter for the architecture.
        ModelLoadError: the model is missing, unreachable, gated, damaged or no causal LM.
    """
    if backend not in _BACKENDS:
        raise unknown_name("backend", backend, _BACKENDS)
    torch_dtype = dtype_named(dtype)
    if device_map is not None and (device is not None or backend == "hooked" or hf_model):
        raise ModelLoadError(
            "device_map= spreads a model that is read from files, on the bridge: leave device= and "
            "hf_model= out, and backend= as it is."
        )
    if hf_model is not None:
        return _load_given(
            os.fspath(name),
            backend=backend,
            device=device,
            revision=revision,
            attn_implementation=attn_implementation,
            hf_model=hf_model,
            tokenizer=tokenizer,
        )
    source = find_source(name, revision=revision)
    if backend == "hooked":
        transformer_lens_door.require_hooked_transformer(source.name)
    if cache:
        source = converted(source, torch_dtype)
    with header_parsed_once(source):
        config = load_config(source, revision=revision, trust_remote_code=trust_remote_code)
        transformer_lens_door.require_adapter(source.name, causal_architecture(config), config)
        own = tokenizer
        if own is None:
            own = load_tokenizer(source, revision=revision, trust_remote_code=trust_remote_code)
        weights = load_weights(
            source,
            config,
            dtype=torch_dtype,
            device=_device(device),
            revision=revision,
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
            device_map=device_map,
        )
    # A tokenizer that was given says nothing of the file's own; what is spread may lie elsewhere.
    if cache and source.gguf_file is not None and tokenizer is None and device_map is None:
        keep(source, config=config, tokenizer=own, model=weights, dtype=torch_dtype)
    return _hooked(
        source.name,
        source.location,
        backend=backend,
        revision=_commit(source, revision) or revision,
        attn_implementation=attn_implementation,
        hf_model=weights,
        tokenizer=own,
    )


def _load_given(
    name: str,
    *,
    backend: str,
    device: str | torch.device | None,
    revision: str | None,
    attn_implementation: str,
    hf_model: Any,
    tokenizer: Any,
) -> HookedModel:
    """`hf_model` hooked under `name`; its tokenizer, if not given, from where it came itself."""
    known = find_known(name)
    official = known.name if known else name
    transformer_lens_door.require_adapter(official, type(hf_model).__name__, hf_model.config)
    if tokenizer is None:
        tokenizer = load_tokenizer(
            _tokenizer_source(name, hf_model, revision), revision=revision, trust_remote_code=False
        )
    if device is not None:
        hf_model.to(_device(device))
    return _hooked(
        official,
        official,
        backend=backend,
        revision=revision,
        attn_implementation=attn_implementation,
        hf_model=hf_model,
        tokenizer=tokenizer,
    )


def _tokenizer_source(name: str, hf_model: Any, revision: str | None) -> Source:
    """Where the tokenizer of a model in memory lies: under its name, or where it was read from."""
    for candidate in (name, hf_model.config.name_or_path):
        try:
            return find_source(candidate, revision=revision)
        except (UnknownNameError, ModelLoadError):
            continue
    raise ModelLoadError(
        f"No tokenizer is known for the model in memory called {name!r}: pass `tokenizer=`."
    )


def _hooked(
    name: str,
    location: str,
    *,
    backend: str,
    revision: str | None,
    attn_implementation: str,
    hf_model: Any,
    tokenizer: Any,
) -> HookedModel:
    if backend == "hooked":
        model = transformer_lens_door.hooked_transformer(
            name, hf_model=hf_model, tokenizer=tokenizer
        )
    else:
        model = transformer_lens_door.bridge(
            name,
            location=location,
            attn_implementation=attn_implementation,
            hf_model=hf_model,
            tokenizer=tokenizer,
        )
    model.cfg.revision = revision
    return model


def _commit(source: Source, revision: str | None) -> str | None:
    """The commit of files from the hub: a branch's name says too little."""
    snapshot = cached_snapshot(source.location, revision) if source.kind == "hub" else None
    return snapshot.name if snapshot else None


def dtype_named(dtype: str | torch.dtype) -> torch.dtype:
    """The dtype of that name; a dtype is taken as it is.

    Raises:
        UnknownNameError: weights are never loaded in it.
    """
    if isinstance(dtype, torch.dtype):
        return dtype
    try:
        return DTYPES[dtype.removeprefix("torch.")]
    except KeyError:
        raise unknown_name("dtype", dtype, DTYPES) from None


def _device(device: str | torch.device | None) -> torch.device:
    """`device`, or CUDA where there is one, else the CPU."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ModelLoadError(
            f"No device is called {device!r}: 'cpu', 'cuda', 'cuda:1', 'mps'."
        ) from error
    try:
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        # A torch built without CUDA raises an AssertionError.
        reason = str(error).splitlines()[0].rstrip(".")
        raise ModelLoadError(
            f"The device {str(device)!r} cannot be used here: {reason}. Leave device= out to take "
            "what there is."
        ) from error
    return found
