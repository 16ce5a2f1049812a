"""`ModelComparison`: several models on the same text, side by side."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mi_toolkit.compare.agreement import Agreement, ModelGroup, groups_of, size_classes
from mi_toolkit.core.display import TextTable
from mi_toolkit.core.head import Head
from mi_toolkit.core.result import Result, fields_fit, load_record, save_record, structured
from mi_toolkit.core.tables import table_of
from mi_toolkit.heads.labels import UNCLASSIFIED
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.models.facts import ModelFacts

if TYPE_CHECKING:
    from mi_toolkit.core.tables import DataFrame


@dataclass(frozen=True, kw_only=True)
class LabelProfile:
    """The heads of one model that carry one label, or have one scope, or no label at all."""

    label: str
    """A label of the report, one of its scopes, or `unclassified`."""

    stimulus: str | None
    """What the label was measured on; None for `unclassified`, which rests on all labels."""

    applicable: bool
    """Whether anything in the text could show it; where not, a count of 0 says nothing."""

    count: int
    """Heads that carry it."""

    share: float
    """Of the model's attention heads, in [0, 1]; NaN where not applicable."""

    depths: tuple[float, ...]
    """Relative depth of each of the heads, `(layer + 1/2) / layers`: 0 at the embedding, 1 at the
    unembedding, whatever the number of layers; heads spread evenly over layers have mean 1/2."""

    strongest: Head | None
    """The head with the highest figure among them, None where there is none."""

    figure: float
    """That head's lift, or value of a distribution behaviour; NaN where there is none."""

    @property
    def depth_mean(self) -> float:
        """Mean relative depth; NaN without heads."""
        return float(torch.tensor(self.depths, dtype=torch.float64).mean())

    @property
    def depth_quartiles(self) -> tuple[float, float, float]:
        """First quartile, median and third quartile of the relative depth; NaN without heads."""
        if not self.depths:
            return (float("nan"),) * 3
        at = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
        low, middle, high = torch.tensor(self.depths, dtype=torch.float64).quantile(at).tolist()
        return low, middle, high

    def row(self) -> dict[str, Any]:
        """The profile as one row of a table."""
        low, middle, high = self.depth_quartiles
        return {
            "label": self.label,
            "stimulus": self.stimulus,
            "applicable": self.applicable,
            "count": self.count,
            "share": self.share,
            "depth_mean": self.depth_mean,
            "depth_q1": low,
            "depth_median": middle,
            "depth_q3": high,
            "strongest": None if self.strongest is None else str(self.strongest),
            "figure": self.figure,
        }


def profile(report: HeadReport) -> tuple[LabelProfile, ...]:
    """One profile per label, then per scope, then of the heads without a label."""
    profiles = []
    for label in report.label_names:
        behaviour = report.behaviour_of(label)
        stimulus, applies = report.stimulus[behaviour], report.applicable[behaviour]
        profiles.append(_profile(report, label, report.heads(label), stimulus, applies=applies))
    if "locality" in report.behaviours:
        stimulus, applies = report.stimulus["locality"], report.applicable["locality"]
        profiles += [
            _profile(report, name, report.heads(name), stimulus, applies=applies)
            for name in report.scope_names
        ]
    bare = report.heads(UNCLASSIFIED)
    return (*profiles, _profile(report, UNCLASSIFIED, bare, None, applies=True))


def _profile(
    report: HeadReport, label: str, heads: Sequence[Head], stimulus: str | None, *, applies: bool
) -> LabelProfile:
    n_layers, total = len(report.scope), len(report.all_heads)
    has_figure = bool(heads) and label in report.label_names
    return LabelProfile(
        label=label,
        stimulus=stimulus,
        applicable=applies,
        count=len(heads),
        share=len(heads) / total if applies and total else float("nan"),
        depths=tuple((head.layer + 0.5) / n_layers for head in heads),
        strongest=heads[0] if heads and label != UNCLASSIFIED else None,
        figure=float(report[report.behaviour_of(label)][heads[0]]) if has_figure else float("nan"),
    )


FORMAT = "mi_toolkit model comparison 1"
RECORD = "comparison.safetensors"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ModelComparison(Result):
    """Reports of several models on the same text, and how far their predictions agree."""

    models: tuple[str, ...]
    """Names, in the order in which they were given."""

    facts: Mapping[str, ModelFacts]
    """Each model's architecture."""

    reports: Mapping[str, HeadReport]
    """Each model's report on its own tokens of the text."""

    groups: tuple[ModelGroup, ...]
    """Models of one size and several families, then of one family and several sizes."""

    n_texts: int
    """Texts that predictions were compared on."""

    agreement: Agreement
    """Agreement on the next token, for every pair of models."""

    accuracy: Mapping[str, float]
    """Per model, the share of its token boundaries at which its most probable next token is what
    the text goes on with, in [0, 1]: a model that often errs agrees with few."""

    def profiles(self, model: str) -> tuple[LabelProfile, ...]:
        """Counts, shares and depths of one model's labels and scopes."""
        return profile(self.reports[model])

    @property
    def bos(self) -> dict[str, str]:
        """Per model: what its texts begin with (see `Provenance.bos`)."""
        return {
            name: " and ".join(dict.fromkeys(report.provenance.bos.values()))
            for name, report in self.reports.items()
        }

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """One row per model and label, scope or `unclassified`."""
        sizes = size_classes({name: fact.parameters for name, fact in self.facts.items()})
        for name in self.models:
            model = {
                "model": name,
                "family": self.facts[name].family,
                "parameters": self.facts[name].parameters,
                "size_class": sizes[name],
                "n_layers": self.facts[name].n_layers,
                "n_heads": self.facts[name].n_heads,
                "bos": self.bos[name],
                "weighting": self.reports[name].weighting,
            }
            yield from ({**model, **shown.row()} for shown in self.profiles(name))

    def agreement_table(self) -> DataFrame:
        """One row per pair of models, with the accuracy of each."""
        a = self.agreement
        return table_of(
            {
                "model": one,
                "other": other,
                "positions": int(a.positions[i, j]),
                "agreement": float(a.share[i, j]),
                "ci_low": float(a.ci_low[i, j]),
                "ci_high": float(a.ci_high[i, j]),
                "chance": float(a.chance[i, j]),
                "lift": float(a.lift[i, j]),
                "accuracy": self.accuracy[one],
                "other_accuracy": self.accuracy[other],
            }
            for i, one in enumerate(self.models)
            for j, other in enumerate(self.models)
            if i < j
        )

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the comparison to a folder: a report per model, and one file for the rest."""
        place = Path(folder)
        for index, name in enumerate(self.models):
            self.reports[name].save(place / f"report-{index}.safetensors")
        tensors = {
            field.name: getattr(self.agreement, field.name)
            for field in dataclasses.fields(self.agreement)
        }
        save_record(place / RECORD, format=FORMAT, tensors=tensors, record=self._record())

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> ModelComparison:
        """Read a comparison back.

        Raises:
            ReportError: no such folder, or it holds no comparison.
        """
        place = Path(folder)
        tensors, record = load_record(place / RECORD, format=FORMAT, kind="model comparison")
        with fields_fit(place / RECORD, "model comparison"):
            facts = {name: _facts(kept) for name, kept in record["facts"].items()}
            names = tuple(record["models"])
            return ModelComparison(
                models=names,
                facts=facts,
                reports={
                    name: HeadReport.load(place / f"report-{index}.safetensors")
                    for index, name in enumerate(names)
                },
                groups=groups_of(facts),
                n_texts=record["n_texts"],
                agreement=structured(tensors, Agreement),
                accuracy={
                    k: float("nan") if v is None else v for k, v in record["accuracy"].items()
                },
            )

    def _record(self) -> dict[str, Any]:
        facts = {name: fact.record() for name, fact in self.facts.items()}
        accuracy = {k: None if v != v else v for k, v in self.accuracy.items()}
        return {
            "models": list(self.models),
            "facts": facts,
            "n_texts": self.n_texts,
            "accuracy": accuracy,
        }

    def text_table(self) -> TextTable:
        """Per label and scope: how many heads of each model carry it; and how often each is right.

        A dash stands where a model was not asked.
        """
        counts = {m: {p.label: p.count for p in self.profiles(m)} for m in self.models}
        labels = dict.fromkeys(label for each in counts.values() for label in each)
        rows = [(label, *(str(counts[m].get(label, "–")) for m in self.models)) for label in labels]
        rows.append(("right next tokens", *(f"{self.accuracy[m]:.2f}" for m in self.models)))
        apart = ~torch.eye(len(self.models), dtype=torch.bool)
        share = self.agreement.share[apart]
        title = (
            f"ModelComparison on {self.n_texts} texts: heads with each label; next tokens agree "
            f"{float(share.min()):.2f} to {float(share.max()):.2f}"
        )
        return TextTable(title=title, header=("", *self.models), rows=rows)


def _facts(kept: dict[str, Any]) -> ModelFacts:
    return ModelFacts(**{**kept, "windows": tuple(kept["windows"])})
