"""GGUF files converted once: safetensors in the Hugging Face cache, which load as a folder does.

1. An entry is named by what it was converted from and by what: the SHA-256 of the GGUF file's whole
   content, the dtype asked for, and the versions of the packages that convert. A file whose content
   changes has another entry, whatever its name, size or time say.
2. A conversion is written into a temporary folder, read back, compared tensor by tensor, and
   renamed: an entry is whole or not there.
3. Before an entry is used, the size and CRC-32 of each of its files are compared with what was
   written down next to them. One that differs is deleted and made again.
"""

from __future__ import annotations

import copy
import functools
import json
import logging
import shutil
import tempfile
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor

from mi_toolkit.core.io import file_digest, refusal, system_errors
from mi_toolkit.core.progress import track
from mi_toolkit.core.resumable import fingerprint
from mi_toolkit.models.checkpoints import load_config, load_tokenizer, read_weights
from mi_toolkit.models.sources import Source

logger = logging.getLogger("mi_toolkit")

_FORMAT = "mi_toolkit converted GGUF 1"
_CONVERTERS = ("transformers", "tokenizers", "gguf")
_RECORD = "converted.json"
_NOT_COMPARED = {
    "_name_or_path",
    "architectures",
    "dtype",
    "quantization_config",
    "transformers_version",
}
"""What a config says of where it lies, and of how it was read, not of the model."""

_SHARE_OF_DISK = 0.5
"""Share of the free disk that an entry may take."""

_reading = threading.RLock()


def cache_folder() -> Path:
    """Where converted GGUF files are kept: in the assets next to the hub's own cache.

    `HF_ASSETS_CACHE` or `HF_HOME` moves it. It may be deleted at any time.
    """
    return Path(constants.HF_ASSETS_CACHE).expanduser() / "mi_toolkit" / "gguf"


def converted(source: Source, dtype: torch.dtype) -> Source:
    """The entry of a GGUF file as a folder to load from; `source` itself where there is none."""
    if source.gguf_file is None:
        return source
    wanted = _wanted(source, dtype)
    entry = _entry(source, wanted)
    if not entry.is_dir():
        return source
    if not _is_sound(entry, wanted):
        logger.info("%s is damaged, and is converted anew", entry)
        shutil.rmtree(entry, ignore_errors=True)
        return source
    return _as_folder(source, entry)


def keep(source: Source, *, config: Any, tokenizer: Any, model: Any, dtype: torch.dtype) -> None:
    """Write what was read from a GGUF file into the cache, for the next time.

    Where it cannot be written, or is not the same when it is read back, a warning says so.

    Args:
        source: the GGUF file.
        config: its config.
        tokenizer: its tokenizer.
        model: the Hugging Face model, before anything is wrapped around it.
        dtype: what it was asked for in.
    """
    wanted = _wanted(source, dtype)
    entry = _entry(source, wanted)
    try:
        with system_errors():
            _write(entry, wanted, source, config=config, tokenizer=tokenizer, model=model)
    except OSError as error:
        logger.warning(
            "%s: what was converted from GGUF could not be kept in %s (%s); the next load converts "
            "it again.",
            source.name,
            entry.parent,
            refusal(error),
        )


def _wanted(source: Source, dtype: torch.dtype) -> dict[str, Any]:
    """All that decides what a conversion gives."""
    return {
        "format": _FORMAT,
        "sha256": file_digest(Path(source.location) / str(source.gguf_file)),
        "dtype": str(dtype).removeprefix("torch."),
        "versions": {package: _version(package) for package in _CONVERTERS},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _entry(source: Source, wanted: dict[str, Any]) -> Path:
    stem = Path(str(source.gguf_file)).stem
    return cache_folder() / f"{stem}-{wanted['dtype']}-{fingerprint(wanted)[:16]}"


def _as_folder(source: Source, entry: Path) -> Source:
    return Source(name=source.name, location=str(entry), kind="folder", own_tokenizer_file=True)


def _write(
    entry: Path, wanted: dict[str, Any], source: Source, *, config: Any, tokenizer: Any, model: Any
) -> None:
    """Make an entry, unless it would not be the same, or another process was quicker.

    Raises:
        OSError: the folder cannot be written, or the disk has too little room.
    """
    tensors = _distinct(model.state_dict())
    entry.parent.mkdir(parents=True, exist_ok=True)
    size = sum(tensor.nbytes for tensor in tensors.values())
    if size > _SHARE_OF_DISK * shutil.disk_usage(entry.parent).free:
        raise OSError(f"its {size / 2**30:.1f} GiB are more than half of the free disk")
    draft = Path(tempfile.mkdtemp(dir=entry.parent, prefix=f".{entry.name}."))
    try:
        own = copy.deepcopy(config)
        if hasattr(own, "quantization_config"):
            del own.quantization_config  # how the GGUF file was read, not what is written
        own.architectures = [type(model).__name__]
        own.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        save_file(tensors, draft / "model.safetensors", metadata={"format": "pt"})
        difference = _difference(draft, source, config=own, tokenizer=tokenizer, model=model)
        if difference is not None:
            logger.warning(
                "%s: %s of the GGUF file would not come back the same from the cache, so it is "
                "converted at every load.",
                source.name,
                difference,
            )
            return
        files = {path.name: _fingerprint(path) for path in sorted(draft.iterdir())}
        (draft / _RECORD).write_text(json.dumps(wanted | {"files": files}, indent=1))
        draft.chmod(entry.parent.stat().st_mode & 0o777)  # mkdtemp lets nobody else in
        try:
            draft.replace(entry)
        except OSError:
            if not entry.is_dir():  # else another process was quicker
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _distinct(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by name, those that share their memory (tied weights) once."""
    seen: dict[tuple[int, torch.Size], str] = {}
    for name, tensor in state.items():
        seen.setdefault((tensor.data_ptr(), tensor.shape), name)
    return {name: state[name].contiguous() for name in seen.values()}


def _difference(
    draft: Path, source: Source, *, config: Any, tokenizer: Any, model: Any
) -> str | None:
    """What comes back from a draft in another way than it was; None where all is the same."""
    folder = _as_folder(source, draft)
    read_config = load_config(folder, revision=None, trust_remote_code=False)
    if _plain(read_config) != _plain(config):
        return "the config"
    read_tokenizer = load_tokenizer(folder, revision=None, trust_remote_code=False)
    if (
        read_tokenizer.backend_tokenizer.to_str() != tokenizer.backend_tokenizer.to_str()
        or read_tokenizer.special_tokens_map != tokenizer.special_tokens_map
    ):
        return "the tokenizer"
    read_model, loading = read_weights(
        folder,
        read_config,
        dtype=model.dtype,
        revision=None,
        attn_implementation="eager",
        trust_remote_code=False,
    )
    read, state = read_model.state_dict(), model.state_dict()
    same = read.keys() == state.keys() and not loading.missing and not loading.mismatched
    if not same or not all(torch.equal(read[name], state[name].cpu()) for name in state):
        return "the weights"
    return None


def _plain(config: Any) -> dict[str, Any]:
    return {name: value for name, value in config.to_dict().items() if name not in _NOT_COMPARED}


def _fingerprint(path: Path) -> dict[str, int]:
    """Size and CRC-32 of a file: what shows accidental damage, at the speed of reading."""
    crc32 = 0
    with path.open("rb") as opened:
        while piece := opened.read(_PIECE):
            crc32 = zlib.crc32(piece, crc32)
    return {"bytes": path.stat().st_size, "crc32": crc32}


_PIECE = 2**20
"""Bytes that are read together: a map of the file would count as memory of the process."""


def _is_sound(entry: Path, wanted: dict[str, Any]) -> bool:
    """Whether an entry holds what was written down when it was made."""
    try:
        record = json.loads((entry / _RECORD).read_text())
        files = record.pop("files")
        return bool(record == wanted) and all(
            (entry / name).stat().st_size == kept["bytes"] and _fingerprint(entry / name) == kept
            for name, kept in files.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


@contextmanager
def header_parsed_once(source: Source) -> Iterator[None]:
    """Inside, the header of a GGUF file is parsed once, and our bar shows its conversion.

    transformers parses it for the config, for the tokenizer and for the weights, each time token by
    token, and makes the table of names for every module of the model.
    """
    if source.gguf_file is None:
        yield
        return
    try:
        import gguf
        from transformers import modeling_gguf_pytorch_utils as conversion
    except ImportError:  # an extra; transformers says that it is missing
        yield
        return
    replaced: list[tuple[Any, str, Any]] = [
        (gguf, "GGUFReader", functools.cache(gguf.GGUFReader)),
        (gguf, "get_tensor_name_map", functools.cache(gguf.get_tensor_name_map)),
        (conversion, "tqdm", _converting),
    ]
    with _reading:
        before = [getattr(module, name) for module, name, _ in replaced]
        for module, name, function in replaced:
            setattr(module, name, function)
        try:
            yield
        finally:
            for (module, name, _), function in zip(replaced, before, strict=True):
                setattr(module, name, function)


def _converting(tensors: Sequence[Any], **_: Any) -> Iterator[Any]:
    label, total = "Converting a GGUF file", len(tensors)
    return track(tensors, total=total, label=label, unit="tensor", show=None)
