"""A Hugging Face causal LM and its tokenizer from a source; each failure is said with its way out.

1. The config first: it is small, and shows a model that is no causal LM before its weights come.
2. The weights, in the dtype asked for, and an error where some are missing: transformers would
   fill them with random numbers and log it.
3. The tokenizer, or None where there is none: transformers would make an empty one.
"""

from __future__ import annotations

import difflib
import logging
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    StrictDataclassError,
)
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationMixin,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
)
from transformers.utils import logging as transformers_logging

from mi_toolkit.core.errors import MIToolkitError, ModelLoadError
from mi_toolkit.core.io import file_digest
from mi_toolkit.core.memory import is_out_of_memory
from mi_toolkit.models.sources import Source, cached_snapshot, in_hub_cache
from mi_toolkit.models.specs import known_models


@contextmanager
def explained(source: Source, *, part: str = "model") -> Iterator[None]:
    """Turn what loading `source` raises into a `ModelLoadError` that says the way out.

    Only what loading is known to raise: a mistake of ours keeps its own traceback.
    """
    try:
        yield
    except (MIToolkitError, SafetensorError):
        raise
    except RAISED as error:
        if is_out_of_memory(error):
            raise
        raise ModelLoadError(_message(source, part, error)) from error
    except Exception as error:
        if type(error) is not Exception:  # tokenizers has no kind of its own for damaged files
            raise
        raise ModelLoadError(_message(source, part, error)) from error


RAISED = (
    *(OSError, ValueError, RuntimeError, LookupError, ImportError),
    # Of fields that are not what they should be, and of lengths that are not there.
    *(TypeError, AttributeError, ArithmeticError, StrictDataclassError, struct.error),
)
"""What transformers, and what it reads files with, are known to raise."""


def _message(source: Source, part: str, error: Exception) -> str:
    if of_hub := _message_of_hub(source, tuple(_chain(error))):
        return of_hub
    name, first_line = source.name, _first_line(error)
    if source.gguf_file:
        return _gguf_message(source, error)
    if "trust_remote_code" in str(error):
        return (
            f"{name} runs Python code of its own repo. Read it, and if you trust it pass "
            "trust_remote_code=True."
        )
    if source.kind == "hub" and "not appear to have a file named" in first_line:
        return (
            f"{name} has no weights that can be read here ({first_line[:-1]}): they may be in "
            "another format. Of a GGUF file pass the file."
        )
    if source.kind == "hub" and "`model_type`" in first_line:
        return (
            f"{name} has no config.json that says of which kind it is: it may be an adapter, a "
            "GGUF file (pass the file), or no model for transformers."
        )
    if isinstance(error, FileNotFoundError):
        return f"A weight file of {name} is missing: {error.filename or first_line}."
    return f"The {part} of {name} ({source.location}) cannot be loaded: {first_line}"


def _message_of_hub(source: Source, causes: Sequence[BaseException]) -> str | None:
    """What the hub refused, or what became of the way to it; None where neither did anything."""
    name = source.name
    if _any(causes, GatedRepoError):
        return (
            f"{name} is gated: accept its licence on https://huggingface.co/{source.location}, "
            "make a token on https://huggingface.co/settings/tokens, and set it as HF_TOKEN (or "
            "run `hf auth login`)."
        )
    if _any(causes, RevisionNotFoundError):
        return f"{name} has no such revision on the hub: {_first_line(causes[0])}"
    if _any(causes, RepositoryNotFoundError):
        return (
            f"The hub has no model {source.location!r} that you may see.{_nearest(name)} Check the "
            "spelling; a private one needs your HF_TOKEN."
        )
    if status := _status(causes):
        return f"The hub answered {status} for {source.location}: {_meaning(status, causes)}."
    if why := _broken_off(causes):
        return (
            f"The download of {name} broke off: {why} Nothing of it is used; try again, and it "
            "goes on where it can."
        )
    if _any(causes, LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError):
        offline = (
            "HF_HUB_OFFLINE is set, so the hub was not asked"
            if constants.HF_HUB_OFFLINE
            else "the hub could not be reached"
        )
        return (
            f"{name} is not in the cache ({constants.HF_HUB_CACHE}), and {offline}."
            f"{_nearest(name)} Connect once to download it, copy its folder into the cache and set "
            "HF_HUB_OFFLINE=1, or use a bundled model such as 'toy-gpt2'."
        )
    return None


_CLIENT = ("httpx", "httpcore")
"""The packages of the hub's client, whose errors are those of a connection."""

_REFUSALS = {
    401: "it wants a token, or does not know yours: make one on "
    "https://huggingface.co/settings/tokens and set HF_TOKEN (or run `hf auth login`)",
    403: "you, or your token, may not read it: see its page, and what your token may do on "
    "https://huggingface.co/settings/tokens",
    404: "it has no such file",
    429: "too many requests; wait {wait} and try again, with a token (HF_TOKEN), which may ask "
    "more often",
}
"""What the hub's refusals mean, and the way out."""


def _status(causes: Iterable[BaseException]) -> int | None:
    """The status with which the hub refused, if it answered at all."""
    answers = (getattr(getattr(cause, "response", None), "status_code", None) for cause in causes)
    return next((int(status) for status in answers if status is not None and status >= 400), None)


def _meaning(status: int, causes: Iterable[BaseException]) -> str:
    if status >= 500:
        return (
            "the fault is its own; try again in a few minutes (https://status.huggingface.co says "
            "how it is)"
        )
    headers = (getattr(getattr(cause, "response", None), "headers", {}) for cause in causes)
    wait = next((each["Retry-After"] for each in headers if "Retry-After" in each), None)
    meaning = _REFUSALS.get(status, "it cannot be downloaded now; try again")
    return meaning.format(wait="a few minutes" if wait is None else f"{wait} s")


def _broken_off(causes: Sequence[BaseException]) -> str | None:
    """What happened on the wire, where a download began and did not end."""
    if _any(causes, LocalEntryNotFoundError):
        return None
    of_client = [cause for cause in causes if is_of_the_client(cause)]
    sizes = [cause for cause in causes if str(cause).startswith("Consistency check failed")]
    found = [*of_client[-1:], *sizes[:1]]
    return _first_line(found[0]) if found else None


def is_of_the_client(error: BaseException) -> bool:
    """Whether an error is one of the hub's client's own kinds: there is no way to the hub."""
    return type(error).__module__.startswith(_CLIENT)


def _gguf_message(source: Source, error: Exception) -> str:
    if isinstance(error, ImportError):
        return (
            f"{source.name} is a GGUF file, and reading it needs the package `gguf`: "
            'pip install "mi-toolkit[gguf]".'
        )
    return (
        f"The GGUF file {source.gguf_file} (in {source.location}) cannot be read: "
        f"{_first_line(error)} It may be damaged or cut short: download it again."
    )


def _nearest(name: str) -> str:
    """A guess at what a hub id meant, or nothing if it is a known one or like none."""
    known = known_models()
    matches = [] if name in known else difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _any(causes: Sequence[BaseException], *kinds: type[BaseException]) -> bool:
    return any(isinstance(cause, kinds) for cause in causes)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    said = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return said.rstrip(".") + "."


logger = logging.getLogger("mi_toolkit")

_WRAPPERS = {
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "module",
    "OptimizedModule": "_orig_mod",
}
"""Classes that run a model otherwise than as it is, and where it is inside them."""

_LAYER = re.compile(r"\.\d+\.")
_TOKENIZER_FILE = re.compile(r"tokenizer|vocab|merges|spiece|sentencepiece|bpe|tiktoken|tekken")
_BUFFERS = re.compile(r"(\.masked_bias|\.attn\.bias|attention\.bias|inv_freq|position_ids)$")


def load_config(source: Source, *, revision: str | None, trust_remote_code: bool) -> Any:
    """The config of `source`, known to be a causal LM's.

    Raises:
        ModelLoadError: not there, not readable, or of another kind of model.
    """
    with explained(source):
        with quiet_transformers(source, revision):
            config = AutoConfig.from_pretrained(
                source.location,
                revision=revision,
                trust_remote_code=trust_remote_code,
                **_gguf(source),
            )
        if causal_architecture(config) is None:
            named = ", ".join(getattr(config, "architectures", None) or [type(config).__name__])
            raise ModelLoadError(
                f"{source.name} is not a causal language model: its config names {named}. Heads "
                "are classified by what they read from earlier tokens, so load a decoder such as "
                "'gpt2'."
            )
    return config


def causal_architecture(config: Any) -> str | None:
    """The class that transformers builds for `config` as a causal LM, or None if it is none.

    What the config says that it is counts: transformers lends a `BertLMHeadModel` to encoders
    too, and knows `is_decoder` on some decoders only (on GPT-NeoX it is False).
    """
    named = set(getattr(config, "architectures", None) or [])
    if "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {}):
        return min(named, default=str(config.model_type))
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or config.is_encoder_decoder:
        return None
    causal = str(getattr(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], "__name__", ""))
    if named and causal not in named:
        return None
    return None if _is_encoder(config) else causal


def _is_encoder(config: Any) -> bool:
    """Whether transformers lends this config a language head without making it a decoder."""
    return type(config) in MODEL_FOR_MASKED_LM_MAPPING and not config.is_decoder


def check_given(name: str, hf_model: Any) -> None:
    """Nothing, where a model in memory is a causal LM that can be wrapped.

    Raises:
        ModelLoadError: it is none, or another wrapper is around it.
    """
    kind = type(hf_model).__name__
    for wrapper, attribute in _WRAPPERS.items():
        if kind == wrapper:
            raise ModelLoadError(
                f"hf_model is a {kind}, whose replicas or graphs know no hooks: give the model "
                f"inside it, hf_model.{attribute}."
            )
    if hasattr(hf_model, "run_with_hooks"):
        raise ModelLoadError(
            f"hf_model is a hooked model already (a {kind}): use it as it is, load_model is not "
            "needed."
        )
    config = getattr(hf_model, "config", None)
    if config is None or not hasattr(hf_model, "get_input_embeddings"):
        raise ModelLoadError(f"hf_model is a {kind}, no Hugging Face model.")
    generates = isinstance(hf_model, GenerationMixin) or kind.endswith("ForCausalLM")
    if generates and not config.is_encoder_decoder and not _is_encoder(config):
        return
    lent = " with is_decoder=False" if generates and _is_encoder(config) else ""
    raise ModelLoadError(
        f"{name} is not a causal language model: hf_model is a {kind}{lent}. Heads are classified "
        "by what they read from earlier tokens, so give a decoder with its language head, such as "
        "GPT2LMHeadModel."
    )


@dataclass(frozen=True, kw_only=True)
class Loading:
    """What became of the tensors of a checkpoint; buffers do not count."""

    missing: tuple[str, ...]
    """Tensors of the model that the checkpoint does not have: transformers makes them up."""

    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    """Name, size in the checkpoint and size in the model of those that do not fit: made up too."""

    unused: tuple[str, ...]
    """Tensors of the checkpoint that the model has no place for."""


def load_weights(
    source: Source,
    config: Any,
    *,
    dtype: torch.dtype,
    device: torch.device,
    revision: str | None,
    attn_implementation: str,
    trust_remote_code: bool,
    device_map: str | Mapping[str, str] | None = None,
    offload_folder: str | None = None,
) -> Any:
    """The Hugging Face model of `source`, in `dtype`, on `device`, or spread by `device_map`.

    Raises:
        ModelLoadError: a weight file is missing or damaged, or does not fit the config.
    """
    model, loading = read_weights(
        source,
        config,
        dtype=dtype,
        revision=revision,
        attn_implementation=attn_implementation,
        trust_remote_code=trust_remote_code,
        device_map=device_map,
        offload_folder=offload_folder,
    )
    _check_complete(source, loading)
    # A model that is spread over devices cannot be moved as one.
    return model.to(device) if device_map is None else model


def read_weights(
    source: Source,
    config: Any,
    *,
    dtype: torch.dtype,
    revision: str | None,
    attn_implementation: str,
    trust_remote_code: bool,
    device_map: str | Mapping[str, str] | None = None,
    offload_folder: str | None = None,
) -> tuple[Any, Loading]:
    """The Hugging Face model of `source`, and what became of the tensors.

    It is on the CPU, or where `device_map` puts it; what is to be on disk and is in no file as it
    is, in `offload_folder`.

    Raises:
        ModelLoadError: a weight file is missing or damaged.
    """
    with (
        _whole_downloads(source, revision),
        explained(source),
        quiet_transformers(source, revision),
    ):
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source.location,
                config=config,
                dtype=dtype,
                attn_implementation=attn_implementation,
                revision=revision,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                # The mismatches are then in the report, which names them, unlike the exception.
                ignore_mismatched_sizes=True,
                **_spread(device_map, offload_folder),
                **_gguf(source),
            )
        except SafetensorError as error:
            if is_out_of_memory(error):
                raise
            raise _damaged(source, revision, error) from error
    model, report = loaded
    return model, Loading(
        missing=_but_buffers(report["missing_keys"]),
        mismatched=tuple(
            (name, tuple(stored), tuple(wanted))
            for name, stored, wanted in sorted(report["mismatched_keys"])
        ),
        unused=_but_buffers(report["unexpected_keys"]),
    )


def _spread(
    device_map: str | Mapping[str, str] | None, offload_folder: str | None
) -> dict[str, Any]:
    """What transformers is asked for where a model is not read as a whole to the CPU."""
    if device_map is None:
        return {}
    asked = device_map if isinstance(device_map, str) else dict(device_map)
    return {"device_map": asked} | (
        {} if offload_folder is None else {"offload_folder": offload_folder}
    )


def _but_buffers(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(name for name in names if not _BUFFERS.search(name)))


def load_tokenizer(source: Source, *, revision: str | None, trust_remote_code: bool) -> Any:
    """The tokenizer of `source`, None where it has none.

    Raises:
        ModelLoadError: one that this installation cannot read.
    """
    if source.kind == "folder" and not source.gguf_file and not has_tokenizer(source.location):
        return _without_tokenizer(source)
    with explained(source, part="tokenizer"), quiet_transformers(source, revision):
        reader: Any = PreTrainedTokenizerFast if source.own_tokenizer_file else AutoTokenizer
        tokenizer = reader.from_pretrained(
            source.location,
            revision=revision,
            trust_remote_code=trust_remote_code,
            **_gguf(source),
        )
        tokenizer.encode("a")  # a field of another kind shows in its use alone
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        return _without_tokenizer(source)
    return tokenizer


def has_tokenizer(folder: str) -> bool:
    """Whether a folder holds any of a tokenizer's files."""
    return any(_TOKENIZER_FILE.search(file.name) for file in Path(folder).iterdir())


def _without_tokenizer(source: Source) -> None:
    logger.warning(
        "%s has no tokenizer: it takes token ids, no text. Put one into its folder with "
        "`tokenizer.save_pretrained`, or pass `tokenizer=`.",
        source.name,
    )


def check_vocabulary(name: str, tokenizer: Any, d_vocab: int) -> None:
    """Check that the model has an embedding for whatever the tokenizer makes of text.

    Rows that no token uses are common, and so is an extra special (Gemma 3's for images) beyond
    them, which no text becomes.

    Raises:
        ModelLoadError: a word of the tokenizer, or a special that it uses, is beyond the model's.
    """
    if tokenizer is None:
        return
    named = {getattr(tokenizer, f"{role}_token_id", None) for role in ("bos", "eos", "unk", "pad")}
    extra = {
        id_
        for id_, token in getattr(tokenizer, "added_tokens_decoder", {}).items()
        if token.special
    } - named
    last = max((id_ for id_ in tokenizer.get_vocab().values() if id_ not in extra), default=-1)
    if last >= d_vocab:
        raise ModelLoadError(
            f"The tokenizer does not fit {name}: it has {len(tokenizer):,} tokens (the last id is "
            f"{last:,}), and the model has embeddings for {d_vocab:,}. Take the model's own "
            "tokenizer, or give the model rows for added tokens (resize_token_embeddings)."
        )


@contextmanager
def quiet_transformers(source: Source, revision: str | None) -> Iterator[None]:
    """Silence transformers' load report, and its progress bars where nothing downloads."""
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    downloads = source.kind == "hub" and not in_hub_cache(source.location, revision)
    transformers_logging.set_verbosity_error()
    if not downloads:
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _gguf(source: Source) -> dict[str, str]:
    return {"gguf_file": source.gguf_file} if source.gguf_file else {}


def _check_complete(source: Source, loading: Loading) -> None:
    """Raise unless every tensor of the model came from the checkpoint, in the right size."""
    if loading.mismatched:
        name, stored, wanted = loading.mismatched[0]
        raise ModelLoadError(
            f"The weights of {source.name} do not fit its config: {name} is {list(stored)} in the "
            f"file and {list(wanted)} by config.json{_and_more(len(loading.mismatched) - 1)}."
        )
    if loading.missing:
        raise ModelLoadError(
            f"The weights of {source.name} are incomplete: {loading.missing[0]} is missing"
            f"{_and_more(len(loading.missing) - 1)}. Download or save the model again; is "
            "config.json that of these weights?"
        )
    in_layers = [key for key in loading.unused if _LAYER.search(key)]
    if in_layers:
        raise ModelLoadError(
            f"The weight files of {source.name} hold more than its config describes: "
            f"{in_layers[0]}{_and_more(len(in_layers) - 1)}. Is config.json that of these weights?"
        )
    if loading.unused:  # a value head of reinforcement learning, say: no part of the language model
        logger.info("%s: left unused: %s", source.name, ", ".join(loading.unused))


def _and_more(others: int) -> str:
    return f" (and {others} more)" if others else ""


@contextmanager
def _whole_downloads(source: Source, revision: str | None) -> Iterator[None]:
    """Check the weights that were downloaded inside the block; damaged ones are deleted.

    The hub's client compares sizes. Of large files the hub says the SHA-256, and the cache names
    the file by it: one that is another would give wrong figures without a word, now and later.

    Raises:
        ModelLoadError: a file is not what the hub has.
    """
    before = _named_by_digest(source, revision)
    try:
        yield
    except Exception:  # damage may have been the reason; Ctrl-C waits for no digest
        _check_new(source, revision, before)
        raise
    _check_new(source, revision, before)


def _check_new(source: Source, revision: str | None, before: Mapping[Path, Path]) -> None:
    for link, blob in _named_by_digest(source, revision).items() - before.items():
        if file_digest(blob) != blob.name:
            link.unlink()
            blob.unlink()
            raise ModelLoadError(
                f"{link.name} of {source.name} was damaged on its way from the hub (its SHA-256 is "
                "not the one that the hub has), and was deleted: try again."
            )


def _named_by_digest(source: Source, revision: str | None) -> dict[Path, Path]:
    """Files of a model in the hub's cache whose names there are SHA-256s, where it lies there."""
    snapshot = cached_snapshot(source.location, revision) if source.kind == "hub" else None
    if snapshot is None:
        return {}
    links = [file for file in snapshot.iterdir() if file.is_symlink() and file.exists()]
    return {link: blob for link in links if len((blob := link.resolve()).name) == _SHA256}


_SHA256 = 64
"""Letters of a SHA-256."""


def _damaged(source: Source, revision: str | None, error: SafetensorError) -> ModelLoadError:
    """The error for a safetensors file that cannot be read, naming the file."""
    files = sorted(_folder(source, revision).glob("*.safetensors"))
    damaged = next((file for file in files if not _readable(file)), None)
    return ModelLoadError(
        f"The weight file {damaged or source.location} of {source.name} is damaged ({error}). "
        "Delete it and download or save it again."
    )


def _folder(source: Source, revision: str | None) -> Path:
    snapshot = cached_snapshot(source.location, revision) if source.kind == "hub" else None
    return snapshot or Path(source.location)


def _readable(file: Path) -> bool:
    try:
        with safe_open(file, framework="pt"):
            return True
    except SafetensorError:
        return False
