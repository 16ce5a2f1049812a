"""From the name that a visitor gives to files: of the package, or of the hub's cache.

transformers takes `owner/name` for a folder where there is one. So what a visitor names never
reaches it: the files are looked up, or downloaded, in the hub's cache, and their folder is loaded.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from huggingface_hub import scan_cache_dir, snapshot_download
from huggingface_hub.errors import CacheNotFound, DryRunError
from huggingface_hub.file_download import DryRunFileInfo

from mi_toolkit.app.settings import Settings
from mi_toolkit.core.errors import ModelLoadError
from mi_toolkit.core.memory import gigabytes
from mi_toolkit.core.model import HookedModel
from mi_toolkit.models.load import load_source
from mi_toolkit.models.memory_use import source_size
from mi_toolkit.models.registry import find_known
from mi_toolkit.models.sources import Source, cached_snapshot, find_source

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
            told = str(error).replace(source.location, source.name)
            raise type(error)(told) from error

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
