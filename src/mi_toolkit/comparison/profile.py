"""A report in figures that models can be compared by: how many heads, what share, how deep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mi_toolkit.heads.head import Head
from mi_toolkit.heads.labels import UNCLASSIFIED
from mi_toolkit.heads.report import HeadReport


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
    bare = [head for head in report.heads(UNCLASSIFIED) if head.layer in attending_layers(report)]
    return (*profiles, _profile(report, UNCLASSIFIED, bare, None, applies=True))


def attending_layers(report: HeadReport) -> list[int]:
    """The layers with attention: all, unless the model is a hybrid."""
    return report.score.isfinite().any(dim=-1).any(dim=0).nonzero().flatten().tolist()


def _profile(
    report: HeadReport, label: str, heads: Sequence[Head], stimulus: str | None, *, applies: bool
) -> LabelProfile:
    n_layers, n_heads = report.scope.shape
    total = len(attending_layers(report)) * n_heads
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
