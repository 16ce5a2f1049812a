"""What a perturbation test gives: outcome by outcome, and the dose curve beside its controls."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mi_toolkit.provenance import Provenance
from mi_toolkit.sensitivity.controls import CONTROLS
from mi_toolkit.sensitivity.evaluation import Quality
from mi_toolkit.shown import ShownAsTable, TextTable

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One set of weights, changed in one way."""

    kind: str
    """How they were changed."""

    k: int
    """How many."""

    group: str
    """`top`, or a control."""

    draw: int
    """Number of the random draw; 0 of the other groups."""

    quality: Quality
    """On the held-out texts."""

    n_not_finite: int
    """Changed weights that became infinite or NaN: bits can do that."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PerturbationTest(ShownAsTable):
    """What changing the top weights does, beside what changing others does."""

    metric: str
    """The scorer that ranked them."""

    baseline: Quality
    """The unchanged model on the same texts."""

    outcomes: tuple[Outcome, ...]
    """Every set that was changed."""

    scale: float
    """Of the kinds that have one."""

    provenance: Provenance
    """Model, held-out texts and versions."""

    def rise(self, kind: str, k: int, group: str = "top") -> list[float]:
        """The rises in loss, in nats per token, of one point of the curve; one for each draw."""
        return [
            outcome.quality.loss - self.baseline.loss
            for outcome in self.outcomes
            if (outcome.kind, outcome.k, outcome.group) == (kind, k, group)
        ]

    def p_value(self, kind: str, k: int) -> float:
        """How often random weights do as much, counting the top itself: (1 + n ≥) / (1 + n).

        With n draws it is never below 1/(n + 1); NaN without random controls.
        """
        (top,), draws = self.rise(kind, k), self.rise(kind, k, "random")
        if not draws:
            return float("nan")
        return (1 + sum(not draw < top for draw in draws)) / (1 + len(draws))

    def to_pandas(self) -> DataFrame:
        """One row per changed set, the unchanged model first.

        Columns: `metric`, `kind`, `k`, `group`, `draw`, `loss`, `loss_rise` (nats per token),
        `perplexity`, `accuracy`, `kl`, `n_not_finite`, `n_tokens`.
        """
        from mi_toolkit.tables import frame

        unchanged = Outcome(
            kind="none", k=0, group="baseline", draw=0, quality=self.baseline, n_not_finite=0
        )
        rows = [
            {
                "metric": self.metric,
                **{name: getattr(outcome, name) for name in ("kind", "k", "group", "draw")},
                **asdict(outcome.quality),
                "loss_rise": outcome.quality.loss - self.baseline.loss,
                "perplexity": outcome.quality.perplexity,
                "n_not_finite": outcome.n_not_finite,
            }
            for outcome in (unchanged, *self.outcomes)
        ]
        return frame({name: [row[name] for row in rows] for name in rows[0]})

    def summary(self) -> DataFrame:
        """One row per kind and k: the top's rise in loss beside the controls', and p.

        Of the random draws the mean, their standard deviation, and how many of those the top is
        above the mean.
        """
        from mi_toolkit.tables import frame

        points = dict.fromkeys((outcome.kind, outcome.k) for outcome in self.outcomes)
        return frame(_transposed([self._point(kind, k) for kind, k in points]))

    def text_table(self) -> TextTable:
        """Per kind and number of weights: the rise in loss, beside the controls'."""
        header = ("kind", "weights", "top", "random", "sd above", "p", "same size", "bottom")
        names = (
            "top",
            "random_mean",
            "sd_above_random",
            "p",
            "magnitude_matched",
            "bottom",
        )
        rows = [
            (row["kind"], f"{row['k']:,}", *(_told(row[name]) for name in names))
            for row in self.summary().to_dict("records")
        ]
        title = (
            f"PerturbationTest of {self.provenance.model} by {self.metric}: rise in loss, nats per "
            f"token (unchanged {self.baseline.loss:.3f})"
        )
        return TextTable(title=title, header=header, rows=rows)

    def _point(self, kind: str, k: int) -> dict[str, Any]:
        (top,), draws = self.rise(kind, k), self.rise(kind, k, "random")
        nan = float("nan")
        mean = statistics.fmean(draws) if draws else nan
        spread = statistics.stdev(draws) if len(draws) > 1 else nan
        others = {name: self.rise(kind, k, name) for name in CONTROLS[1:]}
        return {
            "metric": self.metric,
            "kind": kind,
            "k": k,
            "top": top,
            "random_mean": mean,
            "random_sd": spread,
            "sd_above_random": (top - mean) / spread if spread else nan,
            "p": self.p_value(kind, k),
            **{name: rises[0] if rises else nan for name, rises in others.items()},
        }


def _told(figure: float) -> str:
    return f"{figure:.3g}" if math.isfinite(figure) else ""


def _transposed(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}
