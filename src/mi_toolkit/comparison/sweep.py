"""`LengthSweep`: reports of one model at several lengths, on random tokens and on text."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_toolkit.errors import ReportError, unknown_name
from mi_toolkit.heads.head import Head
from mi_toolkit.heads.kinds import BehaviourFacts
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.record_file import load_record, save_record
from mi_toolkit.shown import ShownAsTable, TextTable

if TYPE_CHECKING:
    from pandas import DataFrame

FORMAT = "mi_toolkit length sweep 1"
RECORD = "sweep.safetensors"


def report_file(stimulus: str, length: int) -> str:
    """The name of one report's file in a sweep's folder."""
    return f"{stimulus}-{length}.safetensors"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LengthSweep(ShownAsTable):
    """One report per stimulus and length."""

    model: str
    """The model's name."""

    lengths: tuple[int, ...]
    """Tokens of a sequence, its BOS not counted, ascending."""

    reports: Mapping[tuple[str, int], HeadReport]
    """By stimulus (`repeated_random`, and `natural` or, of your own text, `prompt`) and length,
    each what `classify_heads` gives for those ids."""

    @property
    def stimuli(self) -> tuple[str, ...]:
        """The stimuli that were swept."""
        return tuple(dict.fromkeys(stimulus for stimulus, _ in self.reports))

    @property
    def behaviours(self) -> tuple[str, ...]:
        """All that were measured on any stimulus, in the order of the one that has most."""
        by_stimulus = [self.report(name, self.lengths[0]).behaviours for name in self.stimuli]
        most = sorted(by_stimulus, key=len, reverse=True)
        return tuple(dict.fromkeys(name for names in most for name in names))

    @property
    def min_lift(self) -> float:
        """The bar that the lift of a mask behaviour had to clear for its label."""
        return next(iter(self.reports.values())).min_lift

    def facts(self, behaviour: str) -> BehaviourFacts:
        """What a behaviour is and needs.

        Raises:
            UnknownNameError: the sweep does not have it.
        """
        for report in self.reports.values():
            if behaviour in report.facts:
                return report.facts[behaviour]
        raise unknown_name("behaviour of this sweep", behaviour, self.behaviours)

    def report(self, stimulus: str, length: int) -> HeadReport:
        """One report.

        Raises:
            UnknownNameError: the sweep does not have it.
        """
        if (stimulus, length) not in self.reports:
            known = [f"{name} at {size}" for name, size in self.reports]
            raise unknown_name("report of this sweep", f"{stimulus} at {length}", known)
        return self.reports[stimulus, length]

    def measured(self, behaviour: str, stimulus: str) -> bool:
        """Whether a behaviour was measured on a stimulus: `positional` is not on random tokens."""
        return behaviour in self.report(stimulus, self.lengths[0]).behaviours

    def figures(self, behaviour: str, stimulus: str) -> Float[Tensor, "length layer head"]:
        """Lift at each length, or the value of a distribution behaviour.

        Raises:
            UnknownNameError: the behaviour was not measured on the stimulus.
        """
        return torch.stack([self.report(stimulus, n)[behaviour] for n in self.lengths])

    def holds(self, label: str, stimulus: str) -> Bool[Tensor, "length layer head"]:
        """Which heads carry a label at which length."""
        rows = []
        for length in self.lengths:
            report = self.report(stimulus, length)
            if label not in report.label_names:
                raise unknown_name(f"label on {stimulus}", label, report.label_names)
            rows.append(report.labels[report.label_names.index(label)])
        return torch.stack(rows)

    def to_pandas(self) -> DataFrame:
        """One row per stimulus, length, behaviour and head: figure, chance, interval, label."""
        from mi_toolkit.tables import joined

        frames = []
        for (stimulus, length), report in self.reports.items():
            frame = report.to_pandas()
            frame["stimulus"] = stimulus
            frame.insert(2, "length", length)
            frames.append(frame.drop(columns="home"))
        return joined(frames)

    def label_table(self) -> DataFrame:
        """One row per stimulus, label and head that carries it at any length: at which it does."""
        from mi_toolkit.tables import table_of

        return table_of(self._label_rows())

    def _label_rows(self) -> Iterator[dict[str, Any]]:
        for stimulus in self.stimuli:
            for label in self.report(stimulus, self.lengths[0]).label_names:
                holds = self.holds(label, stimulus)
                for layer, head in holds.any(dim=0).nonzero().tolist():
                    held = holds[:, layer, head].tolist()
                    at = [n for n, here in zip(self.lengths, held, strict=True) if here]
                    yield {
                        "stimulus": stimulus,
                        "label": label,
                        "head": str(Head(layer, head)),
                        "lengths": " ".join(map(str, at)),
                        "everywhere": all(held),
                        **self._figures_at(label, stimulus, Head(layer, head)),
                    }

    def _figures_at(self, label: str, stimulus: str, head: Head) -> dict[str, float]:
        """The figure behind a label at each length."""
        behaviour = self.report(stimulus, self.lengths[0]).behaviour_of(label)
        figures = self.figures(behaviour, stimulus)[:, head.layer, head.head].tolist()
        return {f"at_{n}": figure for n, figure in zip(self.lengths, figures, strict=True)}

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write every report, and the record that names them, to a folder."""
        for (stimulus, length), report in self.reports.items():
            report.save(Path(folder) / report_file(stimulus, length))
        self.save_record(folder)

    def save_record(self, folder: str | os.PathLike[str]) -> None:
        """Write the record alone, where the reports are in the folder already."""
        lengths = torch.tensor(self.lengths)
        record = {"model": self.model, "stimuli": list(self.stimuli)}
        save_record(
            Path(folder) / RECORD, format=FORMAT, tensors={"lengths": lengths}, record=record
        )

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> LengthSweep:
        """Read a sweep back.

        Raises:
            ReportError: no such folder, or no finished sweep in it.
        """
        place = Path(folder)
        tensors, record = load_record(place / RECORD, format=FORMAT, kind="length sweep")
        lengths = tuple(tensors["lengths"].tolist())
        paths = {
            (stimulus, length): place / report_file(stimulus, length)
            for length in lengths
            for stimulus in record["stimuli"]
        }
        missing = [path.name for path in paths.values() if not path.is_file()]
        if missing:
            raise ReportError(f"The sweep at {place} lacks {', '.join(missing)}.")
        reports = {key: HeadReport.load(path) for key, path in paths.items()}
        return LengthSweep(model=record["model"], lengths=lengths, reports=reports)

    def text_table(self) -> TextTable:
        """Per stimulus and label: how many heads carry it at each length."""
        rows = [
            (stimulus, label, *self._counts(label, stimulus))
            for stimulus in self.stimuli
            for label in self.report(stimulus, self.lengths[0]).label_names
        ]
        header = ("stimulus", "label", *(f"at {length}" for length in self.lengths))
        title = f"LengthSweep of {self.model}: heads with a label, by length in tokens"
        return TextTable(title=title, header=header, rows=rows)

    def _counts(self, label: str, stimulus: str) -> list[str]:
        return [str(int(held.sum())) for held in self.holds(label, stimulus)]
