"""The folder of a run: parts that are done are not done again.

`manifest.json` holds, for each part, the settings that it was made with and its files. A part is
done if its files are there and its settings are those asked for; else it is made again. The
manifest is an allow-list: settings, versions and hashes of texts, nothing about the user or the
machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mi_toolkit.errors import ReportError
from mi_toolkit.files import written_whole

if TYPE_CHECKING:
    from pandas import DataFrame

FORMAT = "mi_toolkit sensitivity run 1"


class RunFolder:
    """Parts by name, in one folder."""

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        """Open the folder, made where it does not exist.

        Args:
            path: where.
            about: the settings that every part rests on: model, texts, versions.

        Raises:
            ReportError: a manifest of something else is there.
        """
        self.path = path
        self.about = dict(about)
        self._parts: dict[str, Any] = {}
        manifest = path / "manifest.json"
        if manifest.is_file():
            stored = _read(manifest)
            if stored.get("about") == _plain(self.about):
                self._parts = stored["parts"]

    def has(self, name: str, settings: Mapping[str, Any]) -> bool:
        """Whether a part was made with these settings and is still whole."""
        part = self._parts.get(name)
        return (
            part is not None
            and part["settings"] == _plain(settings)
            and all((self.path / file).is_file() for file in part["files"])
        )

    def put(
        self,
        name: str,
        settings: Mapping[str, Any],
        files: Mapping[str, Callable[[Path], None]],
    ) -> None:
        """Write a part's files, each whole or not at all, and then its entry in the manifest."""
        for file, write in files.items():
            with written_whole(self.path / file) as draft:
                write(draft)
        self._parts[name] = {"settings": _plain(settings), "files": sorted(files)}
        record = {"format": FORMAT, "about": _plain(self.about), "parts": self._parts}
        with written_whole(self.path / "manifest.json") as draft:
            draft.write_text(json.dumps(record, indent=2, ensure_ascii=False), encoding="utf-8")


def table_writers(name: str, table: DataFrame) -> dict[str, Callable[[Path], None]]:
    """A table as `name.csv` and `name.parquet`."""
    return {
        f"{name}.csv": lambda path: table.to_csv(path, index=False),
        f"{name}.parquet": lambda path: table.to_parquet(path, index=False),
    }


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a run's folder says about itself.

    Raises:
        ReportError: it holds no such run.
    """
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        raise ReportError(f"{folder} holds no sensitivity run: it has no manifest.json.")
    return _read(manifest)


def _read(manifest: Path) -> dict[str, Any]:
    try:
        stored = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReportError(f"{manifest} cannot be read: {error}. Choose another folder.") from error
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        raise ReportError(f"{manifest} is of no sensitivity run. Choose another folder.")
    return stored


def _plain(value: Any) -> Any:
    """As it will read back from JSON."""
    return json.loads(json.dumps(value))


def doses_of(ratios: Sequence[float], size: int) -> list[int]:
    """Numbers of weights for shares of all that are scored, at least one each.

    >>> doses_of([0.5, 0.0001], 1000)
    [1, 500]
    """
    return sorted({max(1, round(ratio * size)) for ratio in ratios})
