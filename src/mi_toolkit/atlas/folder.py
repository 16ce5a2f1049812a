"""`HeadAtlas`: a folder of reports, one table of all their heads, and a page to begin at.

| file | holds |
|---|---|
| `index.html` | counts per label, every model's map of labels, links |
| `summary.md` | the same as Markdown |
| `heads.parquet` | one row per model, stimulus, behaviour and head |
| `atlas.json` | the models, in order, and the protocol |
| `models/<name>/report.safetensors` | a model's report: `HeadReport.load` |
| `models/<name>/index.html`, `labels.png` | its page and its map of labels |
| `models/<name>/provenance.json` | protocol, digests, facts; written last: the model is done |
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mi_toolkit.atlas.protocol import FORMAT
from mi_toolkit.comparison.profile import LabelProfile, profile
from mi_toolkit.errors import ReportError, unknown_name
from mi_toolkit.files import file_digest
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.shown import ShownAsTable, TextTable

if TYPE_CHECKING:
    from pandas import DataFrame

RECORD, TABLE, INDEX, SUMMARY = "atlas.json", "heads.parquet", "index.html", "summary.md"
REPORT, PAGE, PICTURE, PROVENANCE = (
    "report.safetensors",
    "index.html",
    "labels.png",
    "provenance.json",
)
ATLAS_FILES = (RECORD, TABLE, INDEX, SUMMARY)
MODEL_FILES = (REPORT, PAGE, PICTURE, PROVENANCE)


def folder_name(model: str) -> str:
    """A model's name as the name of a folder.

    >>> folder_name("EleutherAI/pythia-160m"), folder_name("./my models/a b")
    ('EleutherAI--pythia-160m', 'my-models--a-b')
    """
    name = re.sub(r"[/\\]+", "--", model)
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "model"


@dataclass(frozen=True, eq=False, repr=False)
class HeadAtlas(ShownAsTable):
    """The standard protocol for several models, on disk: nothing is read before it is asked for."""

    folder: Path
    """Where it is."""

    models: tuple[str, ...]
    """Names, in the order in which they were given."""

    def model_folder(self, model: str) -> Path:
        """Where one model's files are.

        Raises:
            UnknownNameError: the atlas does not have the model.
        """
        if model not in self.models:
            raise unknown_name("model of this atlas", model, self.models)
        return self.folder / "models" / folder_name(model)

    def report(self, model: str) -> HeadReport:
        """One model's report.

        Raises:
            UnknownNameError: the atlas does not have the model.
        """
        return HeadReport.load(self.model_folder(model) / REPORT)

    def provenance(self, model: str) -> Mapping[str, Any]:
        """One model's facts, the protocol it was measured by, and the digests of its files.

        Raises:
            UnknownNameError: the atlas does not have the model.
        """
        path = self.model_folder(model) / PROVENANCE
        kept: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return kept

    def profiles(self, model: str) -> tuple[LabelProfile, ...]:
        """Counts, shares and depths of one model's labels and scopes."""
        return profile(self.report(model))

    def to_pandas(self) -> DataFrame:
        """All heads of all models: one row per model, stimulus, behaviour and head."""
        from mi_toolkit.tables import read_parquet

        return read_parquet(self.folder / TABLE)

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> HeadAtlas:
        """Open an atlas.

        Raises:
            ReportError: no finished atlas in the folder.
        """
        path = Path(folder) / RECORD
        if not path.is_file():
            raise ReportError(f"No head atlas at {folder}: there is no {RECORD} in it.")
        record = json.loads(path.read_text(encoding="utf-8"))
        if record.get("format") != FORMAT:
            raise ReportError(
                f"{path} is of another version ({record.get('format')!r}; wanted {FORMAT!r})."
            )
        return HeadAtlas(Path(folder), tuple(record["models"]))

    def text_table(self) -> TextTable:
        """How many heads of each model carry which label."""
        rows = [
            (model, ", ".join(f"{p.count} {p.label}" for p in self.profiles(model) if p.count))
            for model in self.models
        ]
        return TextTable(title=repr(self), rows=rows)

    def __repr__(self) -> str:  # without opening a file
        return f"HeadAtlas of {', '.join(self.models)} in {self.folder}"


def is_done(folder: Path, digest: str | None) -> bool:
    """Whether a model's files are all there, whole, and of the protocol with this digest."""
    path = folder / PROVENANCE
    if digest is None or not path.is_file():
        return False
    kept = json.loads(path.read_text(encoding="utf-8"))
    return kept["digest"] == digest and all(
        (folder / name).is_file() and file_digest(folder / name) == expected
        for name, expected in kept["files"].items()
    )


def remove_leftovers(folder: Path, names: tuple[str, ...], *, drafts_only: bool) -> None:
    """Remove what a killed run left of these files: drafts, and the files themselves if asked."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        is_draft = any(path.name.startswith(f".{name}.") for name in names)
        if path.is_file() and (is_draft or (path.name in names and not drafts_only)):
            path.unlink()
