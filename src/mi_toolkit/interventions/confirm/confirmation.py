"""`Confirmation`: which labels, and which heads' labels, ablation bears out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from mi_toolkit.errors import unknown_name
from mi_toolkit.heads.head import Head
from mi_toolkit.interventions.confirm.effect import Effect
from mi_toolkit.provenance import Provenance
from mi_toolkit.saved_result import SavedResult
from mi_toolkit.shown import ShownAsTable, TextTable

if TYPE_CHECKING:
    from pandas import DataFrame

Verdict = Literal["survives", "fails", "undecided"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """Heads of one label, ablated together, beside random heads."""

    label: str
    """What the heads are said to do."""

    heads: tuple[Head, ...]
    """The heads that were ablated: all of the label, or one of them."""

    stimulus: str
    """What the losses were measured on."""

    n_sequences: int
    """Sequences with a query that counts."""

    n_queries: int
    """Queries whose prediction counts."""

    clean_loss: float
    """Mean loss of these predictions with nothing ablated, in nats."""

    effect: Effect
    """The loss change, and how far it stands out among those of the random sets."""

    random_sets: tuple[tuple[Head, ...], ...]
    """The random sets, in the order of `effect.random`."""

    are_all: bool
    """Whether these are all sets of the kind, not a draw of them."""

    crowded: tuple[int, ...]
    """Layers whose random heads had to be filled up with labelled ones."""

    rank_in_layer: tuple[int, int] | None
    """Of a single head: its place among all heads of its layer by loss change (1 for the highest,
    or lowest where the label says so), and how many there are. None for a set."""

    q: float
    """The false discovery rate at which it would count, over all trials of the confirmation."""

    verdict: Verdict
    """Whether the label survives."""

    reason: str
    """Why, in a few words."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Confirmation(SavedResult, ShownAsTable):
    """Labels put to the test of ablation."""

    FORMAT: ClassVar[str] = "mi_toolkit confirmation 2"

    trials: tuple[Trial, ...]
    """What was tested, label by label; of single heads the largest effect first."""

    untested: Mapping[str, str]
    """Labels that could not be tested, and why."""

    by: Literal["label", "head"]
    """Whether all heads of a label were ablated together, or each alone."""

    how: str
    """The kind of ablation."""

    alpha: float
    """The false discovery rate that a label may have and survive."""

    n_random: int | None
    """Random sets asked for; None for all other heads."""

    reference: str
    """What the kind of ablation took its values from, in words."""

    provenance: Provenance
    """Model, stimuli and versions."""

    def __getitem__(self, label: str) -> tuple[Trial, ...]:
        """The trials of one label, none where it could not be tested.

        Raises:
            UnknownNameError: no such label here.
        """
        found = tuple(trial for trial in self.trials if trial.label == label)
        if not found and label not in self.untested:
            known = dict.fromkeys([*(trial.label for trial in self.trials), *self.untested])
            raise unknown_name("label of this confirmation", label, known)
        return found

    def heads(self, verdict: Verdict = "survives") -> dict[str, list[Head]]:
        """Per label the heads whose label met that verdict."""
        found: dict[str, list[Head]] = {}
        for trial in self.trials:
            if trial.verdict == verdict:
                found.setdefault(trial.label, []).extend(trial.heads)
        return found

    def to_pandas(self) -> DataFrame:
        """One row per trial."""
        from mi_toolkit.tables import confirmation_table

        return confirmation_table(self)

    def title(self) -> str:
        """What was done, in one line."""
        what = "Labels" if self.by == "label" else "Single heads"
        return f"{what} of {self.provenance.model} under {self.how} ablation"

    def rows(self) -> list[list[str]]:
        """A table in words: what was ablated, its loss change, effect, percentile and verdict."""
        return [
            *(trial_row(trial, self.by) for trial in self.trials),
            *([name, "–", "", "", "", f"not tested: {why}"] for name, why in self.untested.items()),
        ]

    def text_table(self) -> TextTable:
        """The trials in words."""
        return TextTable(title=self.title(), header=HEADER, rows=self.rows())


HEADER = ("label", "ablated", "loss change (nats)", "effect (sd)", "percentile", "verdict")


def trial_row(trial: Trial, by: str) -> list[str]:
    """One trial in words, under `HEADER`."""
    effect = trial.effect
    if by == "head" or len(trial.heads) <= 3:
        ablated = " ".join(map(str, trial.heads))
    else:
        ablated = f"{len(trial.heads)} heads"
    return [
        trial.label,
        ablated,
        with_interval(effect.change, effect.change_low, effect.change_high, digits=3),
        with_interval(effect.effect, effect.effect_low, effect.effect_high, digits=1),
        f"{effect.percentile:.1f} of {len(effect.random)}" if len(effect.random) else "",
        f"{trial.verdict}: {trial.reason}",
    ]


def with_interval(value: float, low: float, high: float, *, digits: int) -> str:
    """A signed figure with its interval, as far as there are any: `+0.92 [+0.91, +0.93]`."""
    if value != value:
        return ""
    interval = f" [{low:+.{digits}f}, {high:+.{digits}f}]" if low == low else ""
    return f"{value:+.{digits}f}{interval}"
