"""Do heads keep their rank and their labels from one stimulus to another?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_toolkit.core.errors import ComparisonError
from mi_toolkit.core.process_state import one_job
from mi_toolkit.core.result import Result
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.heads.summary import TOO_FEW


@dataclass(frozen=True, kw_only=True)
class StimulusPair:
    """One behaviour on two stimuli."""

    behaviour: str
    stimulus: str
    other: str

    n_heads: int
    """Heads with a figure on both."""

    rank_correlation: float
    """Spearman's, of the heads' figures, in [-1, 1]; NaN under three heads, or without spread. Most
    heads of a model do nothing of a kind: their order is noise, and pulls it towards 0."""

    labelled: int | None
    """Heads with the label on the first stimulus; None where it has too few queries for one."""

    other_labelled: int | None
    """Heads with the label on the second; None likewise."""

    both: int | None
    """Heads with the label on both; None where one of them has too few queries."""

    overlap: float
    """`both` over the heads with the label on either (Jaccard); NaN where none has it, or none
    could."""

    kappa: float
    """Agreement of the label over all heads beyond chance (Cohen); NaN where none or all have it
    on both, or none could."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class StimulusComparison(Result):
    """Reports of one model on several stimuli, behaviour by behaviour."""

    FORMAT: ClassVar[str] = "mi_toolkit stimulus comparison 1"

    reports: Mapping[str, HeadReport]
    """One report per stimulus, by its name."""

    pairs: tuple[StimulusPair, ...]
    """One per behaviour and pair of stimuli that could both show it."""

    @property
    def model(self) -> str:
        """Whose heads they are."""
        return next(iter(self.reports.values())).provenance.model

    def rows(self) -> Iterable[Mapping[str, Any]]:
        """One row per behaviour and pair of stimuli."""
        return map(asdict, self.pairs)

    def title(self) -> str:
        """What was compared, in one line."""
        return f"StimulusComparison of {self.model} on {', '.join(self.reports)}"


@one_job
def compare_stimuli(reports: HeadReport | Mapping[str, HeadReport]) -> StimulusComparison:
    """Whether heads that do something on one stimulus do it on another.

    Args:
        reports: a standard report, which has each of its stimuli apart; or reports of one model by
            the name of what they were measured on.

    Raises:
        ComparisonError: fewer than two stimuli, or reports of several models.

    Example:
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> verse = mi.classify_heads(model, "one two three one two three one two three")
        >>> prose = mi.classify_heads(model, "It was late, and the rain had not stopped.")
        >>> comparison = mi.compare.compare_stimuli({"verse": verse, "prose": prose})
        >>> comparison.pairs[0].behaviour
        'previous_token'
    """
    given: Any = reports.parts if isinstance(reports, HeadReport) else reports
    by_stimulus = dict(given) if isinstance(given, Mapping) else {}
    if len(by_stimulus) < 2:
        raise ComparisonError(
            "Stimuli are compared two or more at a time: give a standard report "
            "(classify_heads(model) without a prompt), or a mapping from names to reports."
        )
    models = {report.provenance.model for report in by_stimulus.values()}
    if len(models) > 1:
        raise ComparisonError(
            f"The reports are of {' and '.join(sorted(models))}: stimuli are compared on one "
            "model, models by compare_models."
        )
    shapes = {tuple(report.scope.shape) for report in by_stimulus.values()}
    if len(shapes) > 1:
        raise ComparisonError(
            "The reports are of models of different shape "
            f"({', '.join(f'{layers} × {heads}' for layers, heads in sorted(shapes))}): stimuli "
            "are compared on one model, models by compare_models."
        )
    return StimulusComparison(reports=by_stimulus, pairs=tuple(_pairs(by_stimulus)))


def rank_correlation(one: Float[Tensor, " head"], other: Float[Tensor, " head"]) -> float:
    """Spearman's rank correlation, equal figures sharing their mean rank; NaN without spread.

    >>> round(rank_correlation(torch.tensor([1.0, 2, 3, 4]), torch.tensor([1.0, 2, 4, 3])), 6)
    0.8
    """
    if len(one) < 3:
        return float("nan")
    ranks = torch.stack([_ranks(one), _ranks(other)])
    centred = ranks - ranks.mean(dim=1, keepdim=True)
    below = centred.square().sum(dim=1).prod().sqrt()
    return float(centred.prod(dim=0).sum() / below) if below > 0 else float("nan")


def cohens_kappa(one: Bool[Tensor, " head"], other: Bool[Tensor, " head"]) -> float:
    """Agreement of two labellings beyond chance; NaN where chance alone makes them agree.

    >>> cohens_kappa(torch.tensor([1, 1, 0, 0]).bool(), torch.tensor([1, 0, 0, 0]).bool())
    0.5
    """
    p, q = one.double().mean(), other.double().mean()
    chance = p * q + (1 - p) * (1 - q)
    observed = (one == other).double().mean()
    return float((observed - chance) / (1 - chance)) if chance < 1 else float("nan")


def _ranks(figures: Tensor) -> Float[Tensor, " head"]:
    below = (figures[:, None] > figures).sum(dim=1)
    equal = (figures[:, None] == figures).sum(dim=1)
    return below.double() + equal.double() / 2


def _pairs(reports: Mapping[str, HeadReport]) -> Iterator[StimulusPair]:
    for (here, one), (there, other) in combinations(reports.items(), 2):
        measured = _are_heads(one)
        for behaviour in one.behaviours:
            if not (one.applicable[behaviour] and other.applicable.get(behaviour, False)):
                continue
            known = one[behaviour].isfinite() & other[behaviour].isfinite()
            first, second = (labelled_heads(each, behaviour)[measured] for each in (one, other))
            could, other_could = (report.interval[behaviour] != TOO_FEW for report in (one, other))
            both = int((first & second).sum()) if could and other_could else None
            either = 0 if both is None else int((first | second).sum())
            yield StimulusPair(
                behaviour=behaviour,
                stimulus=here,
                other=there,
                n_heads=int(known.sum()),
                rank_correlation=rank_correlation(one[behaviour][known], other[behaviour][known]),
                labelled=int(first.sum()) if could else None,
                other_labelled=int(second.sum()) if other_could else None,
                both=both,
                overlap=both / either if both is not None and either else float("nan"),
                kappa=float("nan") if both is None else cohens_kappa(first, second),
            )


def _are_heads(report: HeadReport) -> Bool[Tensor, " head"]:
    """Of all places of heads, layer by layer: those in layers that have attention."""
    found = torch.zeros(report.scope.shape, dtype=torch.bool)
    found[[head.layer for head in report.all_heads]] = True
    return found.flatten()


def labelled_heads(report: HeadReport, behaviour: str) -> Bool[Tensor, " head"]:
    """Which heads carry a behaviour's label, layer by layer; of `locality`, which are local."""
    if behaviour == "locality":  # its label is the scope
        return (report.scope == report.scope_names.index("local")).flatten()
    if behaviour not in report.label_names:
        return torch.zeros(report.scope.numel(), dtype=torch.bool)
    return report.labels[report.label_names.index(behaviour)].flatten()
