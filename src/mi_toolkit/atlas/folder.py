"""`HeadAtlas`: a folder of reports, one table of all their heads, and a page to begin at.

| file | holds |
|---|---|
| `index.html` | counts per label, every model's map of labels, links |
| `summary.md` | the same as Markdown |
| `heads.parquet` | one row per model, revision, stimulus, behaviour and head |
| `atlas.json` | the models, in order, and the protocol |
| `models/<name>/report.safetensors` | a model's report: `HeadReport.load` |
| `models/<name>/index.html`, `labels.png` | its page and its map of labels |
| `models/<name>/profiles.safetensors` | what its heads move, where that was asked for |
| `models/<name>/provenance.json` | protocol, digests, facts; written last: the model is done |
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mi_toolkit.cards.profile import HeadProfiles
from mi_toolkit.compare.model_comparison import LabelProfile, profile
from mi_toolkit.core.display import TableRepr, TextTable
from mi_toolkit.core.errors import ReportError, UnknownNameError, unknown_name
from mi_toolkit.core.io import folder_name, read_json
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.provenance import installed_versions
from mi_toolkit.core.result import fields_fit, structured
from mi_toolkit.core.resumable import Manifest, Part, WrittenFile
from mi_toolkit.core.tables import read_parquet
from mi_toolkit.heads.behaviours import chosen
from mi_toolkit.heads.kinds import Weighting
from mi_toolkit.heads.relations import RELATIONS
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.models.load import load_model
from mi_toolkit.models.sources import find_source, weights_of

if TYPE_CHECKING:
    from mi_toolkit.core.tables import DataFrame


FORMAT, KIND = "mi_toolkit head atlas 1", "model of a head atlas"
_NO_FIGURE = ("device", "cache")
"""Arguments of `load_model` that change last digits at most: a digest holds elsewhere too."""


def protocol_of(
    *,
    min_lift: float,
    weighting: Weighting,
    seed: int,
    load: Mapping[str, Any],
    headvis: bool,
    profiles: bool = False,
) -> Any:
    """What is done to every model, as plain values: it decides all figures, with the weights."""
    return {
        "format": FORMAT,
        "behaviours": {behaviour.name: asdict(behaviour.facts) for behaviour in chosen(None)},
        "min_lift": min_lift,
        "weighting": weighting,
        "seed": seed,
        "load": {
            name: str(value) for name, value in sorted(load.items()) if name not in _NO_FIGURE
        },
        "headvis": headvis,
        **({"profiles": list(RELATIONS)} if profiles else {}),  # else as before there were any
        "versions": installed_versions(),
    }


RECORD, TABLE, INDEX, SUMMARY = "atlas.json", "heads.parquet", "index.html", "summary.md"
REPORT, PAGE, PICTURE, PROVENANCE = (
    "report.safetensors",
    "index.html",
    "labels.png",
    "provenance.json",
)
HEADVIS = "headvis"
"""Folder of a model for HeadVis, where it was asked for."""

PROFILES = "profiles.safetensors"
"""What a model's heads move, where it was asked for."""

MEASURED = "measured"
"""The part that a finished model is."""


@dataclass(frozen=True, eq=False, repr=False)
class HeadAtlas(TableRepr):
    """The standard protocol for several models, on disk: nothing is read before it is asked for."""

    folder: Path
    """Where it is."""

    models: tuple[str, ...]
    """Names, in the order in which they were given; at a revision, `pythia-160m@step1000`."""

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
            ReportError: the model is not finished, or its report is not what was written.
        """
        part, path = self._measured(model), self.model_folder(model) / REPORT
        if path.is_file() and part.files.get(REPORT) not in (None, WrittenFile.of(path)):
            raise ReportError(f"{path} is damaged: build the atlas again, or bring it back.")
        return HeadReport.load(path)

    def head_profiles(self) -> dict[str, HeadProfiles]:
        """What the heads of each model move, as `others` of `head_card` and `head_families`.

        Of the models that were profiled, by name (`head_atlas(..., profiles=True)`).

        Raises:
            ReportError: none was.
        """
        paths = {name: self.model_folder(name) / PROFILES for name in self.models}
        found = {name: HeadProfiles.load(path) for name, path in paths.items() if path.is_file()}
        if not found:
            raise ReportError(
                f"The atlas at {self.folder} has no profiles of heads: build it with "
                "profiles=True (mi-toolkit atlas --profiles)."
            )
        return found

    def load_model(self, model: str, **options: Any) -> HookedModel:
        """One of the models, at its revision and in its dtype, with the weights it had.

        Args:
            model: one of `models`.
            options: further arguments to `load_model`, such as `device`.

        Raises:
            UnknownNameError: the atlas does not have the model, or its folder is not there.
            ReportError: its weights are not those that were measured.
            MIToolkitError: as `load_model` does.
        """
        made = self.report(model).provenance
        try:
            source = find_source(made.model, revision=made.revision)
        except UnknownNameError as error:
            raise UnknownNameError(
                f"{model} was measured as {made.model!r}, which is no model from here: a folder is "
                "looked for from where this runs. Go to where the atlas was built, or load it with "
                "mi.load_model(FOLDER)."
            ) from error
        loaded = load_model(
            made.model, **{"revision": made.revision, "dtype": made.dtype, **options}
        )
        if weights_of(source, made.revision) != self._measured(model).settings["weights"]:
            raise ReportError(
                f"The weights of {model} are not those that the atlas was built from: build it "
                "again."
            )
        return loaded

    def provenance(self, model: str) -> Mapping[str, Any]:
        """One model's facts, protocol and weights, and the digests of its files.

        Raises:
            UnknownNameError: the atlas does not have the model.
            ReportError: the model is not finished.
        """
        part = self._measured(model)
        digests = {name: file.sha256 for name, file in part.files.items()}
        return {**part.settings, **part.facts, "files": digests}

    def _measured(self, model: str) -> Part:
        path = self.model_folder(model) / PROVENANCE
        part = Manifest.read(path, format=FORMAT, kind=KIND).parts.get(MEASURED)
        if part is None:
            raise ReportError(f"{path} is of a model that is not finished: build the atlas again.")
        return part

    def profiles(self, model: str) -> tuple[LabelProfile, ...]:
        """Counts, shares and depths of one model's labels and scopes."""
        return profile(self.report(model))

    def to_pandas(self) -> DataFrame:
        """All heads of all models: one row per model, revision, stimulus, behaviour and head."""
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
        record = read_json(path)
        if record.get("format") != FORMAT:
            raise ReportError(
                f"{path} is of another version ({record.get('format')!r}; wanted {FORMAT!r})."
            )
        with fields_fit(path, KIND):
            return HeadAtlas(Path(folder), tuple(structured(record["models"], list[str])))

    def text_table(self) -> TextTable:
        """How many heads of each model carry which label."""
        rows = [
            (model, ", ".join(f"{p.count} {p.label}" for p in self.profiles(model) if p.count))
            for model in self.models
        ]
        return TextTable(title=repr(self), rows=rows)

    def __repr__(self) -> str:  # without opening a file
        return f"HeadAtlas of {', '.join(self.models)} in {self.folder}"
