"""The loaded models, lent to one visitor at a time.

A lock per model, not a copy per visitor: hooks hang on the model itself, so whoever ablates must
be alone with it, and a copy would take the model's memory again. Work is done in slices, between
which the lock goes round: a long prompt holds nobody up for longer than one of its passes.

What a visitor names never reaches transformers, which takes `owner/name` for a folder where there
is one: the files are looked up, or downloaded, in the hub's cache, and their folder is loaded.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from huggingface_hub import scan_cache_dir, snapshot_download
from huggingface_hub.errors import CacheNotFound, DryRunError
from huggingface_hub.file_download import DryRunFileInfo

from mi_toolkit.app.settings import Settings
from mi_toolkit.core.errors import ModelLoadError
from mi_toolkit.core.memory import available_bytes, gigabytes
from mi_toolkit.core.model import HookedModel
from mi_toolkit.models.load import load_model, load_source
from mi_toolkit.models.memory_use import source_size
from mi_toolkit.models.sources import Source, cached_snapshot, find_source
from mi_toolkit.models.specs import find_known

PATTERNS = ("*.json", "*.txt", "*.model", "*.safetensors", "*.bin")
"""What a model's folder may hold that is downloaded; nothing in it is ever run."""

ADAPTER = "adapter_config.json"
"""Names a base model, which may be a folder of this machine: adapters are not loaded here."""


class VisitorModels:
    """Loads what visitors ask for, within a server's settings."""

    def __init__(self, settings: Settings) -> None:
        """By these settings."""
        self._settings = settings

    def load(self, name: str) -> HookedModel:
        """The model that `Settings.model_named` gave the name of.

        Raises:
            MIToolkitError: it is not here and may not be downloaded, or does not load.
        """
        source = self._source(name)
        try:
            return load_source(source, revision=_commit(source))
        except ModelLoadError as error:
            # Where the cache lies is nothing for visitors.
            message = str(error).replace(source.location, source.name)
            raise type(error)(message) from error

    def size(self, name: str) -> int:
        """Bytes that its weights will take in float32; 0 of small ones at hand.

        Raises:
            MIToolkitError: as `load` does.
        """
        known = find_known(name)
        if known is not None and known.where != "hub":
            return 0
        source = self._source(name)
        return source_size(source, revision=_commit(source)).weights(4)

    def _source(self, name: str) -> Source:
        source = Source(name=name, location=name, kind="hub")
        own = self._settings
        if find_known(name) is not None or own.allow_local or name in self._settings.allow_models:
            source = find_source(name)
        if source.kind == "folder":
            return source
        folder = cached_snapshot(source.location)
        if folder is None or not _has_weights(folder):
            folder = self._downloaded(source)
        if (folder / ADAPTER).exists():
            raise ModelLoadError(f"{name} is an adapter: this page loads whole models.")
        return replace(source, location=str(folder), kind="folder")

    def _downloaded(self, source: Source) -> Path:
        settings, name = self._settings, source.name
        if not settings.may_download(name):
            raise ModelLoadError(
                f"{name} is not on this server, which downloads nothing for visitors."
            )
        token = None if settings.lends_token else False
        try:
            found = snapshot_download(
                source.location, allow_patterns=[*PATTERNS], token=token, dry_run=True
            )
            wanted = _wanted(found)
            self._check_space(name, wanted)
            folder = snapshot_download(
                source.location,
                revision=wanted[0].commit_hash if wanted else None,
                allow_patterns=[each.filename for each in wanted],
                token=token,
            )
        except (DryRunError, OSError, ValueError) as error:
            raise ModelLoadError(
                f"{name} is not on this server, and the hub has no such model that it may see, or "
                "cannot be reached."
            ) from error
        return Path(folder)

    def _check_space(self, name: str, files: list[DryRunFileInfo]) -> None:
        settings = self._settings
        needed = sum(each.file_size or 0 for each in files)
        if settings.max_model_bytes is not None and needed > settings.max_model_bytes:
            raise ModelLoadError(
                f"{name} is a download of {gigabytes(needed)}; this server takes models of "
                f"{gigabytes(settings.max_model_bytes)} at most."
            )
        missing = sum(each.file_size or 0 for each in files if each.will_download)
        if settings.disk is not None and _cached_bytes() + missing > settings.disk:
            raise ModelLoadError(
                f"{name} is a download of {gigabytes(missing)}, and there is no room for it among "
                f"the {gigabytes(settings.disk)} that this server keeps."
            )


def _wanted(files: list[DryRunFileInfo]) -> list[DryRunFileInfo]:
    """The files of the folder itself, the weights in one form only."""
    own = [each for each in files if "/" not in each.filename]
    has_safetensors = any(each.filename.endswith(".safetensors") for each in own)
    other = ".bin" if has_safetensors else ".safetensors"
    return [each for each in own if not each.filename.endswith(other)]


def _has_weights(folder: Path) -> bool:
    return any(path.suffix in (".safetensors", ".bin") for path in folder.iterdir())


def _commit(source: Source) -> str | None:
    """The commit of files in the hub's cache: their folder's name."""
    folder = Path(source.location)
    return folder.name if folder.parent.name == "snapshots" else None


def _cached_bytes() -> int:
    try:
        return scan_cache_dir().size_on_disk
    except CacheNotFound:
        return 0


PATIENCE = 0.1
"""Seconds between two looks at whether somebody who waits has left."""


def model_bytes(model: HookedModel) -> int:
    """Bytes of a model's weights, those that are shared counted once."""
    storages = {
        parameter.untyped_storage().data_ptr(): parameter.untyped_storage().nbytes()
        for module in model.modules()
        for parameter in module.parameters(recurse=False)
    }
    return sum(storages.values())


@dataclass(eq=False)
class _Held:
    line: list[object] = field(default_factory=list)
    model: HookedModel | None = None
    n_bytes: int = 0
    last_used: float = 0.0


class ModelPool:
    """Models by name, loaded when first asked for, the least recently used given up for space."""

    def __init__(
        self,
        limit: int | None = None,
        *,
        load: Callable[[str], HookedModel] = load_model,
        size: Callable[[str], int] = lambda name: 0,
    ) -> None:
        """A pool of `limit` bytes, or half of the memory that is free now.

        Args:
            limit: bytes that the weights may fill together.
            load: loads a model by name.
            size: bytes that its weights will take, before they are read; 0 where that is unknown.
        """
        self.limit = available_bytes() // 2 if limit is None else limit
        self._load, self._size = load, size
        self._held: dict[str, _Held] = {}
        self._moved = threading.Condition()

    @property
    def loaded(self) -> tuple[str, ...]:
        """The models in memory, the one used last at the end."""
        with self._moved:
            held = [(each.last_used, name) for name, each in self._held.items() if each.model]
        return tuple(name for _, name in sorted(held))

    @contextmanager
    def acquire(
        self, name: str, *, waiting: Callable[[str, int], None] = lambda name, place: None
    ) -> Iterator[HookedModel]:
        """The model, and nobody else at it meanwhile; who came first has it first.

        Args:
            name: as `load_model` takes it.
            waiting: told the model and one's place in the line for it, where whoever has it is
                the first; raises to give up waiting.

        Raises:
            MIToolkitError: as `load_model` does.
        """
        ticket = object()
        with self._moved:
            held = self._held.setdefault(name, _Held())
            held.line.append(ticket)
        try:
            self._wait(name, held, ticket, waiting)
            if held.model is None:
                expected = self._size(name)
                self._make_room(expected)
                if expected:
                    self._check_fits(expected)
                held.model = self._load(name)
                held.n_bytes = model_bytes(held.model)
                self._make_room(0)
            yield held.model
        finally:
            with self._moved:
                held.last_used = time.monotonic()
                held.line.remove(ticket)
                if not held.line and held.model is None:
                    self._held.pop(name, None)
                self._moved.notify_all()

    def _wait(
        self, name: str, held: _Held, ticket: object, waiting: Callable[[str, int], None]
    ) -> None:
        while True:
            with self._moved:
                place = held.line.index(ticket)
                if place and not self._moved.wait_for(lambda: held.line[0] is ticket, PATIENCE):
                    place = held.line.index(ticket)
                else:
                    return
            waiting(name, place + 1)

    def pass_on(
        self, name: str, *, waiting: Callable[[str, int], None] = lambda name, place: None
    ) -> None:
        """Let those in line for a model have it first, each once; whoever has it calls this.

        Nothing of the caller's may hang on the model meanwhile.
        """
        with self._moved:
            held = self._held[name]
            if len(held.line) == 1:
                return
            ticket = held.line.pop(0)
            held.line.append(ticket)
            self._moved.notify_all()
        self._wait(name, held, ticket, waiting)

    def _make_room(self, needed: int) -> None:
        """Give up models that nobody has, the least recently used first, until `needed` fits."""
        with self._moved:
            idle = [name for name, each in self._held.items() if each.model and not each.line]
            idle.sort(key=lambda name: self._held[name].last_used)
            while idle and self._filled() + needed > self.limit:
                del self._held[idle.pop(0)]
                return_memory()

    def _check_fits(self, needed: int) -> None:
        filled = self._filled()
        if filled + needed > self.limit:
            raise ModelLoadError(
                f"The model takes {gigabytes(needed)}, and this server has "
                f"{gigabytes(self.limit)} for models, of which {gigabytes(filled)} are in use. "
                "Choose a smaller one, or come back later."
            )

    def _filled(self) -> int:
        return sum(each.n_bytes for each in self._held.values())


SHARED = (type, ModuleType, FunctionType, BuiltinFunctionType, MethodType, torch.nn.Module)
"""What belongs to the program or to a model, not to a result."""


def held_bytes(found: Any) -> int:
    """Bytes of an object and of all that it leads to, each counted once.

    >>> held_bytes({"a": torch.zeros(1000), "b": "text"}) >= 4000
    True
    """
    waiting, seen, total = [found], set(), 0
    while waiting:
        each = waiting.pop()
        if id(each) in seen or isinstance(each, SHARED):
            continue
        seen.add(id(each))
        total += sys.getsizeof(each)
        if isinstance(each, torch.Tensor):
            storage = each.untyped_storage()
            if storage.data_ptr() not in seen:
                seen.add(storage.data_ptr())
                total += storage.nbytes()
        else:
            waiting += gc.get_referents(each)
    return total


def return_memory() -> None:
    """Give memory that is free within the process back to the system, where it can be."""
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)
