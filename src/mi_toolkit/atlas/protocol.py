"""The digest that resuming rests on: of the protocol, the versions and a model's weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mi_toolkit.files import file_digest
from mi_toolkit.heads.behaviours import chosen
from mi_toolkit.models.sources import Source, cached_snapshot
from mi_toolkit.provenance import installed_versions

FORMAT = "mi_toolkit head atlas 1"
_NO_FIGURE = ("device", "cache")
"""Arguments of `load_model` that change last digits at most: a digest holds elsewhere too."""

_WEIGHTS = ("*.safetensors", "*.bin", "*.json", "*.txt", "*.model")


def protocol_of(*, min_lift: float, seed: int, load: Mapping[str, Any], headvis: bool) -> Any:
    """What is done to every model, as plain values: it decides all figures, with the weights."""
    return {
        "format": FORMAT,
        "behaviours": {behaviour.name: asdict(behaviour.facts) for behaviour in chosen(None)},
        "min_lift": min_lift,
        "seed": seed,
        "load": {
            name: str(value) for name, value in sorted(load.items()) if name not in _NO_FIGURE
        },
        "headvis": headvis,
        "versions": installed_versions(),
    }


def digest_of(protocol: Any, source: Source, revision: str | None) -> str | None:
    """SHA-256 over protocol, name and weights; None for weights that are not on this machine."""
    weights = _files_digest(source, revision)
    if weights is None:
        return None
    content = json.dumps({"protocol": protocol, "model": source.name, "weights": weights})
    return hashlib.sha256(content.encode()).hexdigest()


def _files_digest(source: Source, revision: str | None) -> str | None:
    """The commit of a hub model in the cache, or SHA-256 over the files of a folder."""
    if source.kind == "hub":
        snapshot = cached_snapshot(source.location, revision)
        return None if snapshot is None else snapshot.name
    folder = Path(source.location)
    if source.gguf_file is not None:
        return file_digest(folder / source.gguf_file)
    paths = sorted({path for pattern in _WEIGHTS for path in folder.glob(pattern)})
    listed = "".join(f"{path.name}:{file_digest(path)};" for path in paths)
    return hashlib.sha256(listed.encode()).hexdigest()
