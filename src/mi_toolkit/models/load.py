"""`load_model`: any causal language model, by name or path, hooked and ready to be looked at.

1. The name becomes a place (`sources`), the place a config, weights and a tokenizer
   (`checkpoints`), all by transformers, so that dtype, revision and cache are the user's.
2. TransformerLens wraps that very model (`core.tl_compat`): no second copy of the
   weights, nothing folded, nothing centred.
3. An adapter of peft is merged into the weights, or refused by name. Not merged, a model has two
   sets of weights; merged it has one, which is what every figure that is read off weights is of.
4. The hooked model proves itself against the same weights as Hugging Face runs them (`probe`).
"""

from __future__ import annotations

import logging
import os
import traceback
import warnings
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from mi_toolkit.core import tl_compat
from mi_toolkit.core.blocks_on_disk import blocks_on_disk
from mi_toolkit.core.errors import (
    MIToolkitError,
    ModelLoadError,
    OutOfMemoryError,
    UnknownNameError,
    UnsupportedModelError,
    in_one_line,
    unknown_name,
)
from mi_toolkit.core.memory import SMALLER, gigabytes, is_out_of_memory, known_bytes
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.process_state import one_job, without_inference_tensors
from mi_toolkit.core.vocabulary import put_in_front
from mi_toolkit.models.checkpoints import (
    RAISED,
    causal_architecture,
    check_given,
    check_vocabulary,
    has_tokenizer,
    load_config,
    load_tokenizer,
    load_weights,
)
from mi_toolkit.models.gguf_cache import converted, header_parsed_once, keep
from mi_toolkit.models.memory_use import config_size, held_parameters
from mi_toolkit.models.probe import check_finite, options_set, prove, reference_pass
from mi_toolkit.models.sources import Source, bytes_on_disk, cached_snapshot, find_source
from mi_toolkit.models.specs import find_known
from mi_toolkit.models.streamed import load_with_blocks_on_disk

logger = logging.getLogger("mi_toolkit")

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_BOOT_ERRORS = (AssertionError, RuntimeError, ValueError)
"""What TransformerLens is seen to raise where it meets a module that it does not expect."""
_BACKENDS = ("auto", "bridge", "hooked")


@one_job
def load_model(
    name: str | os.PathLike[str] | nn.Module,
    *,
    backend: str = "auto",
    device: str | torch.device | None = None,
    device_map: str | None = None,
    layers_at_a_time: int | None = None,
    dtype: str | torch.dtype = "float32",
    revision: str | None = None,
    attn_implementation: str = "eager",
    trust_remote_code: bool = False,
    hf_model: Any = None,
    tokenizer: Any = None,
    check: bool = True,
    cache: bool = True,
) -> HookedModel:
    """A causal language model with hook points: in eval mode, without gradients, weights raw.

    >>> model = load_model("toy-gpt2")
    >>> model.cfg.n_layers, model.training
    (4, False)

    Args:
        name: a known name or alias (`mi-toolkit models --all` lists them), any hub id, a folder
            that `save_pretrained` wrote, a `.gguf` file, or, with `hf_model`, what to call it. An
            adapter's folder gives the model that it is for, with the adapter merged (extra `peft`).
            Or a Hugging Face model itself: `hf_model`, called what its config says.
        backend: `auto` and `bridge` give a `TransformerBridge`, which runs Hugging Face's own
            code. `hooked` gives a `HookedTransformer` (TransformerLens 3, official names only),
            which holds the weights twice while it loads.
        device: `None` takes CUDA where there is one and the CPU elsewhere. Apple's `mps` has to
            be asked for: TransformerLens knows it to give wrong numbers.
        device_map: how to spread the model over devices, as transformers takes it: `auto`,
            `balanced`, `sequential`, or one device. Instead of `device`.
        layers_at_a_time: leave the weights of the blocks in their files, and have so many blocks
            in memory at a time: each is read before it runs. 1 takes the least; more are not read
            again and again. None: the whole model. Figures are the same; gradients, and what
            scores or changes weights, need the whole model and say so. Embeddings are in memory.
        dtype: `float32`, `float16` or `bfloat16`. The weights load in it; where the file has
            another, each tensor is converted as it is read.
        revision: a branch, tag or commit of the hub repo, such as Pythia's `step1000`.
        attn_implementation: attention patterns exist in `eager` attention only; `sdpa` is for
            runs that need none.
        trust_remote_code: let the repo's own Python code run.
        hf_model: a Hugging Face model already in memory. It is taken over: its modules are
            wrapped in place, its attention implementation is set, its gradients are off. It keeps
            its own dtype, and its own device unless `device` says another. Given a second time, in
            the same way, it is the same handle that comes back. A `PeftModel`'s adapters are merged
            into its weights, in place.
        tokenizer: a tokenizer to use instead of the model's own. It is copied. A model without one
            loads, and takes token ids where others take text.
        check: whether the model proves itself: every weight is a number, and on two short sequences
            the hooked model gives the logits and attention of Hugging Face's own forward, to
            rounding. It costs two short passes and one reading of the weights, no second copy.
        cache: keep what is converted from a GGUF file as safetensors next to the hub's cache
            (`HF_HOME/assets/mi_toolkit/gguf`), where the next load finds it. False neither reads
            nor writes there.

    Raises:
        UnknownNameError: nothing is called `name`, or `backend` or `dtype` is none of those.
        UnsupportedModelError: TransformerLens has no adapter for the architecture, or does not
            compute what Hugging Face does.
        ModelLoadError: the model is missing, unreachable, gated, damaged or no causal LM, computes
            NaN, the tokenizer has tokens that the model has no embedding for, or `hf_model` is
            wrapped already.
        OutOfMemoryError: there is not enough memory for it; the message says what takes less.
    """
    if backend not in _BACKENDS:
        raise unknown_name("backend", backend, _BACKENDS)
    if isinstance(name, nn.Module):
        if hf_model is not None:
            raise ModelLoadError("Two models were given: as the first argument and as hf_model.")
        name, hf_model = _name_of(name), name
    torch_dtype = dtype_named(dtype)
    if device_map is not None and (device is not None or backend == "hooked" or hf_model):
        raise ModelLoadError(
            "device_map= spreads a model that is read from files, on the bridge: leave device= and "
            "hf_model= out, and backend= as it is."
        )
    if layers_at_a_time is not None and (device_map or backend == "hooked" or hf_model):
        raise ModelLoadError(
            "layers_at_a_time= is for a model that is read from files, on the bridge and one "
            "device: leave device_map= and hf_model= out, and backend= as it is."
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
            check=check,
        )
    return load_source(
        find_source(name, revision=revision),
        backend=backend,
        device=device,
        device_map=device_map,
        layers_at_a_time=layers_at_a_time,
        dtype=torch_dtype,
        revision=revision,
        attn_implementation=attn_implementation,
        trust_remote_code=trust_remote_code,
        tokenizer=tokenizer,
        check=check,
        cache=cache,
    )


@one_job
def load_source(
    source: Source,
    *,
    backend: str = "auto",
    device: str | torch.device | None = None,
    device_map: str | None = None,
    layers_at_a_time: int | None = None,
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
    attn_implementation: str = "eager",
    trust_remote_code: bool = False,
    tokenizer: Any = None,
    check: bool = True,
    cache: bool = True,
) -> HookedModel:
    """The model at a place that was found already; all else as `load_model` has it.

    Raises:
        MIToolkitError: as `load_model` does.
    """
    if backend == "hooked":
        tl_compat.require_hooked_transformer(source.name)
    if cache:
        source = converted(source, dtype)
    with header_parsed_once(source):
        config = load_config(source, revision=revision, trust_remote_code=trust_remote_code)
        tl_compat.require_adapter(source.name, causal_architecture(config), config)
        own = tokenizer
        if own is None:
            own = _own_tokenizer(source, revision, trust_remote_code=trust_remote_code)
        check_vocabulary(source.name, own, int(config.get_text_config().vocab_size))
        given: dict[str, Any] = {
            "dtype": dtype,
            "device": _device(device),
            "revision": revision,
            "attn_implementation": attn_implementation,
            "trust_remote_code": trust_remote_code,
        }
        if device_map is None:
            _check_memory(source, config, given, layers_at_a_time)
        if layers_at_a_time is None:
            weights = load_weights(source, config, device_map=device_map, **given)
        else:
            weights = load_with_blocks_on_disk(source, config, at_a_time=layers_at_a_time, **given)
    if source.adapter is not None:
        weights = with_adapter(weights, Path(source.adapter))
    # A tokenizer that was given says nothing of the file's own; what is spread may lie elsewhere.
    plain = source.gguf_file is not None and source.adapter is None
    if cache and plain and tokenizer is None and device_map is None:
        keep(source, config=config, tokenizer=own, model=weights, dtype=dtype)
    return _hooked(
        source.name,
        source.location,
        backend=backend,
        revision=_commit(source, revision) or revision,
        attn_implementation=attn_implementation,
        hf_model=weights,
        tokenizer=own,
        check=check,
    )


def _check_memory(
    source: Source, config: Any, given: Mapping[str, Any], layers: int | None
) -> None:
    """Check that the weights alone fit in what is free: else the system may end the process.

    Raises:
        OutOfMemoryError: they do not.
    """
    free, dtype = known_bytes(given["device"]), given["dtype"]
    files = bytes_on_disk(source, given["revision"])
    # A quantised file grows by eight at most; to know more takes building the model's shapes.
    if free is None or 0 < _MOST_GROWTH * files < free:
        return
    size = config_size(source, config, trust_remote_code=given["trust_remote_code"])
    wanted = dtype.itemsize * held_parameters(size, layers)
    if wanted > free:
        raise OutOfMemoryError(
            f"{source.name} does not fit: its weights take {gigabytes(wanted)} in "
            f"{str(dtype).removeprefix('torch.')}, and {gigabytes(free)} are free. {SMALLER}"
        )


_MOST_GROWTH = 8


def _own_tokenizer(source: Source, revision: str | None, *, trust_remote_code: bool) -> Any:
    """The tokenizer of a source; of an adapter, the one in its folder before the model's."""
    if source.adapter is not None and has_tokenizer(source.adapter):
        source = replace(source, location=source.adapter, kind="folder", gguf_file=None)
    return load_tokenizer(source, revision=revision, trust_remote_code=trust_remote_code)


@dataclass(frozen=True, kw_only=True)
class _Given:
    """How a model in memory was given, and the handle that it became."""

    how: tuple[object, ...]
    handle: weakref.ref[Any]


_given: weakref.WeakKeyDictionary[Any, _Given] = weakref.WeakKeyDictionary()
"""What each loaded model was given, by its Hugging Face model, which the handle keeps alive."""


def _load_given(
    name: str,
    *,
    backend: str,
    device: str | torch.device | None,
    revision: str | None,
    attn_implementation: str,
    hf_model: Any,
    tokenizer: Any,
    check: bool,
) -> HookedModel:
    """`hf_model` hooked under `name`; its tokenizer, if not given, from where it came itself."""
    known = find_known(name)
    official = known.name if known else name
    if is_peft(hf_model):
        hf_model = merged(hf_model)  # a second time: the same model, with nothing left to merge
    check_given(official, hf_model)
    how = (official, backend, str(device), revision, attn_implementation, id(tokenizer))
    handle = _handle_of(official, hf_model, how)
    if handle is not None:
        return handle
    tl_compat.require_adapter(official, type(hf_model).__name__, hf_model.config)
    if tokenizer is None:
        source = _tokenizer_source(name, hf_model, revision)
        if source is not None:
            tokenizer = load_tokenizer(source, revision=revision, trust_remote_code=False)
    check_vocabulary(official, tokenizer, hf_model.get_input_embeddings().weight.shape[0])
    if device is not None:
        hf_model.to(_device(device))
    model = _hooked(
        official,
        official,
        backend=backend,
        revision=revision,
        attn_implementation=attn_implementation,
        hf_model=hf_model,
        tokenizer=tokenizer,
        check=check,
    )
    if backend != "hooked":
        _given[hf_model] = _Given(how=how, handle=weakref.ref(model))
    return model


def _name_of(hf_model: nn.Module) -> str:
    """What a model in memory is called where nobody says: where it was read from, or its class."""
    path: str = getattr(getattr(hf_model, "config", None), "name_or_path", "")
    return path or type(hf_model).__name__


def _handle_of(name: str, hf_model: Any, how: tuple[object, ...]) -> HookedModel | None:
    """The handle that `hf_model` is wrapped in already; None where it is not wrapped.

    Raises:
        ModelLoadError: it is, otherwise than asked for now, or by somebody else.
    """
    if not tl_compat.is_wrapped(hf_model):
        return None
    before = _given.get(hf_model)
    handle = before.handle() if before else None
    if before is None or handle is None or before.how != how:
        raise ModelLoadError(
            f"The hf_model given as {name!r} is wrapped already: a second handle on it would share "
            "its modules and hooks with the first. Use the first handle, or load the weights anew "
            "(`from_pretrained`) for the second."
        )
    found: HookedModel = handle
    return found


def _tokenizer_source(name: str, hf_model: Any, revision: str | None) -> Source | None:
    """Where the tokenizer of a model in memory lies: under its name, or where it was read from.

    None where neither is known: it is then a model that reads ids.

    Raises:
        ModelLoadError: a revision of what is no model of the hub.
    """
    # An empty path is no place; as a path it would be the folder that Python runs in.
    for candidate in filter(None, (name, hf_model.config.name_or_path)):
        try:
            find_source(candidate)
        except (UnknownNameError, ModelLoadError):
            continue
        return find_source(candidate, revision=revision)
    return None


def _hooked(
    name: str,
    location: str,
    *,
    backend: str,
    revision: str | None,
    attn_implementation: str,
    hf_model: Any,
    tokenizer: Any,
    check: bool,
) -> HookedModel:
    reference = None
    without_inference_tensors(hf_model)
    blocks = blocks_on_disk(hf_model)
    if check:
        check_finite(name, hf_model)
        if blocks is not None:
            blocks.when_read = lambda layer, block: check_finite(name, block, f"layer {layer}, ")
        hf_model.set_attn_implementation(attn_implementation)
        reference = reference_pass(name, hf_model)
    if blocks is not None:
        blocks.when_read = None
    try:
        if backend == "hooked":
            model = tl_compat.hooked_transformer(name, hf_model=hf_model, tokenizer=tokenizer)
        else:
            model = tl_compat.bridge(
                name,
                location=location,
                attn_implementation=attn_implementation,
                hf_model=hf_model,
                tokenizer=tokenizer,
            )
        if blocks is not None:
            blocks.hooked(model.blocks)  # type: ignore[attr-defined]
        if reference is not None:
            prove(model, reference, config=hf_model.config)
    except UnsupportedModelError as error:
        raise _with_adapter_named(name, hf_model, error) from error
    except MIToolkitError:
        raise
    except _BOOT_ERRORS as error:
        if is_out_of_memory(error):
            raise
        raise _with_adapter_named(name, hf_model, _cannot_wrap(name, hf_model, error)) from error
    model.cfg.revision = revision
    if tokenizer is not None and put_in_front(tokenizer):
        # TransformerLens goes by the architecture alone, and would take away what is put there.
        model.cfg.default_prepend_bos = True
    model.cfg.checked = reference is not None
    return model


def _with_adapter_named(
    name: str, hf_model: Any, error: UnsupportedModelError
) -> UnsupportedModelError:
    """The error of a model that cannot be hooked, with the adapter that may be the reason."""
    adapted = next(unmerged(hf_model), None)
    if adapted is None:
        return error
    return UnsupportedModelError(
        f"{name} cannot be hooked with an adapter on {adapted} that is not merged: "
        f"merge_and_unload() of peft first, or give the PeftModel, which is merged. ({error})"
    )


def _cannot_wrap(name: str, hf_model: Any, error: Exception) -> UnsupportedModelError:
    """The error for a model that TransformerLens has an adapter for and stumbles over."""
    lines = str(error).strip().splitlines()
    where = traceback.extract_tb(error.__traceback__)[-1]
    cause = lines[0].rstrip(".") if lines else f"{where.line} fails in its {where.name}"
    return UnsupportedModelError(
        f"{name} cannot be hooked: TransformerLens stumbles over this {type(hf_model).__name__} "
        f"({cause}). {options_set(hf_model.config)}Use a checkpoint without such an option (or "
        "without quantised weights), or a newer TransformerLens (pip install -U transformer-lens)."
    )


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


_PUT_ON_IN_PART = ("Unexpected keyword arguments", "Found missing adapter keys")
"""What peft warns of where it goes on with another adapter than the one that was trained."""


def with_adapter(hf_model: Any, folder: Path) -> Any:
    """A model with the adapter in a folder merged into its weights.

    Raises:
        ModelLoadError: peft cannot put it on this model, or not all of it, or it has no weights to
            merge.
    """
    from peft import PeftModel  # an extra, and heavy

    try:
        with warnings.catch_warnings():
            for message in _PUT_ON_IN_PART:
                warnings.filterwarnings("error", message, UserWarning)
            adapted = PeftModel.from_pretrained(hf_model, str(folder))
    except UserWarning as warning:
        raise ModelLoadError(
            f"peft would put the adapter in {str(folder)!r} on in part: "
            f"{shorten(str(warning), 200, placeholder='…')} "
            "Save it again whole, or upgrade peft (pip install -U peft) where it was saved by a "
            "later one."
        ) from warning
    except (*RAISED, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        raise ModelLoadError(
            f"peft cannot put the adapter in {str(folder)!r} on a {type(hf_model).__name__}: "
            f"{in_one_line(error)}"
        ) from error
    return merged(adapted)


def is_peft(hf_model: Any) -> bool:
    """Whether a model is wrapped by peft (a `PeftModel`)."""
    return any(kind.__name__ == "PeftModel" for kind in type(hf_model).__mro__)


def merged(peft_model: Any) -> Any:
    """The model in a `PeftModel`, with its adapters in its weights: merged in place.

    Raises:
        ModelLoadError: adapters that are no change of weights, or give weights that are no numbers.
    """
    kinds = ", ".join(
        sorted({str(each.peft_type).rpartition(".")[2] for each in peft_model.peft_config.values()})
    )
    try:
        model = peft_model.merge_and_unload(safe_merge=True)
    except (AttributeError, ValueError, NotImplementedError) as error:
        raise ModelLoadError(
            f"The adapter ({kinds}) cannot be merged into the weights of its model, and is not "
            f"loaded otherwise: {str(error).splitlines()[0]}"
        ) from error
    left = next(unmerged(model), None)
    if left is not None:
        raise ModelLoadError(f"{left} is an adapter still after merge_and_unload() ({kinds}).")
    logger.info("The adapter (%s) is merged into the weights of %s.", kinds, type(model).__name__)
    return model


def unmerged(hf_model: nn.Module) -> Iterator[str]:
    """Names of the modules that an adapter wraps, such as `model.layers.0.self_attn.q_proj`."""
    for name, module in hf_model.named_modules():
        if isinstance(getattr(module, "base_layer", None), nn.Module):
            yield name.replace("._original_component", "")
