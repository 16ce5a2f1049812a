"""`Confirmation`: which labels, and which heads' labels, ablation bears out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from mi_toolkit.core.display import TextTable
from mi_toolkit.core.errors import unknown_name
from mi_toolkit.core.head import Head
from mi_toolkit.core.provenance import Provenance
from mi_toolkit.core.result import Result
from mi_toolkit.interventions.confirm.losses import Effect

if TYPE_CHECKING:
    pass

Verdict = Literal["survives", "fails", "undecided"]


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerPart:
    """The heads of a set in one layer, ablated alone, next to other heads of the layer."""

    heads: tuple[Head, ...]
    """The set's heads of this layer."""

    change: float
    """Loss change of ablating them and nothing else, in nats."""

    change_low: float
    """Lower end of its 95% interval."""

    change_high: float
    """Upper end of the same."""

    others: Float[Tensor, " set"]
    """Changes of other sets of as many heads of the layer: all of them, or a sample."""

    rank: int
    """Its place among them, 1 for the largest change in the label's direction."""

    @property
    def lags(self) -> bool:
        """Whether it does less than the median of them."""
        return 2 * self.rank > len(self.others) + 2


@dataclass(frozen=True, kw_only=True, eq=False)
class SharedHead:
    """A head that sets which reach the labelled set's change have in common."""

    head: Head
    """The head."""

    labelled: bool
    """Whether it is one of the label's own."""

    change: float
    """Loss change of ablating it alone, in nats."""

    change_low: float
    """Lower end of its 95% interval."""

    change_high: float
    """Upper end of the same."""

    n_reaching: int
    """Sets that reach the change and contain the head."""

    n_sets: int
    """Sets that contain the head."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ShapleyValue:
    """A head's share of the change of its set.

    The mean over orders of what the head adds when the heads before it in the order are ablated
    already. The shares of a set add up to its change.
    """

    head: Head
    """The head."""

    value: float
    """The head's share of the change, in nats."""

    standard_error: float
    """Standard error of the value, from the orders that were drawn and from the sequences."""

    order_error: float
    """Standard error from the orders alone: 0 where all of them were run."""

    alone: float
    """Loss change of ablating it alone, in nats."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Backup:
    """A head without the label whose own effect grows when the labelled heads are ablated."""

    head: Head
    """The head."""

    alone: float
    """Loss change of ablating it alone, in nats."""

    after: float
    """What ablating it adds to the ablation of the set, in nats."""

    growth: float
    """The latter minus the former, in the label's direction."""

    growth_low: float
    """Lower end of its 95% interval, above 0."""

    growth_high: float
    """Upper end of the same."""

    q: float
    """The false discovery rate at which it counts, over all heads without the label."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """What explains the verdict on a set of heads."""

    layers: tuple[LayerPart, ...]
    """The set layer by layer; empty where it lies in one layer."""

    n_reaching: int
    """Random sets that reach the set's change."""

    shared: tuple[SharedHead, ...]
    """Heads that together cover the sets that reach it, as far as few heads can: each chosen as
    the one that separates the reaching sets without an earlier one best from the others."""

    n_without: int
    """Random sets that hold none of them."""

    n_reaching_without: int
    """How many of those reach the change all the same."""

    n_orders: int
    """Orders after the Shapley values; 0 where none were asked for."""

    shapley: tuple[ShapleyValue, ...]
    """Each head's share of the change; empty where none were asked for."""

    backups: tuple[Backup, ...] | None
    """Heads that stand in for the set, the largest growth first; None where not asked for."""


@dataclass(frozen=True, kw_only=True, eq=False)
class HypothesisTest:
    """Heads of one label, ablated together, next to random sets of heads."""

    label: str
    """What the heads are said to do."""

    heads: tuple[Head, ...]
    """The heads that were ablated: all of the label, or one of them."""

    stimulus: str
    """What the losses were measured on."""

    n_sequences: int
    """Sequences with a query that counts."""

    n_seen: int | None
    """How many of them the label had been given on: 0 unless it rests on a prompt of one's own;
    None where the heads were named and no report says."""

    n_queries: int
    """Queries whose prediction counts."""

    clean_loss: float
    """Mean loss of these predictions with nothing ablated, in nats."""

    effect: Effect
    """The loss change, and how far it stands out among those of the random sets."""

    random_sets: tuple[tuple[Head, ...], ...]
    """The random sets, in the order of `effect.random`; the tested one is none of them."""

    are_all: bool
    """Whether these are all other sets of the kind, so that p is exact; else a sample."""

    rank_in_layer: tuple[int, int] | None
    """Of a single head: its place among all heads of its layer by loss change (1 for the highest,
    or lowest where the label says so), and how many there are. None for a set."""

    explanation: Explanation | None
    """What explains the verdict; None for a single head."""

    q: float
    """The false discovery rate at which it would count, over all trials of the confirmation."""

    verdict: Verdict
    """Whether the label survives."""

    reason: str
    """Why the verdict is this one, in a few words."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Confirmation(Result):
    """Labels put to the test of ablation."""

    FORMAT: ClassVar[str] = "mi_toolkit confirmation 3"
    OUTDATED: ClassVar[Mapping[str, str]] = {
        f"mi_toolkit confirmation {version}": (
            "its random sets left the labelled heads out, which makes every p too small: confirm "
            "the heads again, or read it with the version of mi_toolkit that wrote it"
        )
        for version in (1, 2)
    }

    trials: tuple[HypothesisTest, ...]
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
    """Random sets asked for, where there are too many to run all; None for all other heads."""

    n_passes: int
    """Forward passes that it took, each of up to 32 sets of heads on one sequence."""

    reference: str
    """What the kind of ablation took its values from, in words."""

    provenance: Provenance
    """Model, stimuli and versions."""

    def __getitem__(self, label: str) -> tuple[HypothesisTest, ...]:
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

    def rows(self) -> Iterable[Mapping[str, Any]]:
        """One row per trial, and one without figures per label that could not be tested."""
        run = {"model": self.provenance.model, "how": self.how}
        tested = [run | _tested_row(trial) for trial in self.trials]
        untested = [
            run | {"label": label, "verdict": "untested", "reason": reason}
            for label, reason in self.untested.items()
        ]
        return [*tested, *untested]

    def title(self) -> str:
        """What was done, in one line."""
        what = "Labels" if self.by == "label" else "Single heads"
        return f"{what} of {self.provenance.model} under {self.how} ablation"

    def facts(self) -> str:
        """What the losses rest on, in a sentence."""
        n_seen = sum(trial.n_seen or 0 for trial in self.trials)
        fresh = "some sequences gave the label" if n_seen else "the sequences gave no label"
        if all(trial.n_seen is None for trial in self.trials):
            fresh = "what gave the labels is not known"
        return (
            f"Values from {self.reference}; seed {self.provenance.seed}, {fresh}; "
            f"{self.n_passes} passes."
        )

    def cells(self) -> list[list[str]]:
        """A table in words: each trial, and under a set what explains its verdict."""
        return [
            *(row for trial in self.trials for row in (trial_row(trial, self.by), *details(trial))),
            *([name, "–", "", "", "", f"not tested: {why}"] for name, why in self.untested.items()),
        ]

    def text_table(self) -> TextTable:
        """The trials in words."""
        return TextTable(title=self.title(), header=HEADER, rows=self.cells())


HEADER = ("label", "ablated", "loss change (nats)", "effect (sd)", "percentile", "verdict")


def trial_row(trial: HypothesisTest, by: str) -> list[str]:
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
        _in_deviations(effect),
        f"{effect.percentile:.1f} of {len(effect.random)}" if len(effect.random) else "",
        f"{trial.verdict}: {trial.reason}",
    ]


MOST_DEVIATIONS = 100
"""Beyond so many standard deviations it is the others that are alike: more figures say nothing."""


def _in_deviations(effect: Effect) -> str:
    if abs(effect.effect) < MOST_DEVIATIONS or effect.effect != effect.effect:
        return with_interval(effect.effect, effect.effect_low, effect.effect_high, digits=1)
    return f"{'over +' if effect.effect > 0 else 'under -'}{MOST_DEVIATIONS}"


def details(trial: HypothesisTest) -> Iterator[list[str]]:
    """What explains a verdict, in rows under `HEADER`."""
    found = trial.explanation
    if found is None:
        return
    for part in found.layers:
        names = " ".join(map(str, part.heads))
        n_sets = len(part.others) + 1
        yield [
            "",
            f"only layer {part.heads[0].layer}: {names}",
            with_interval(part.change, part.change_low, part.change_high, digits=3),
            "",
            f"rank {part.rank} of {n_sets}" if n_sets > 1 else "",
            "less than most of its layer" if part.lags else "",
        ]
    for shared in found.shared:
        reaching = f"in {shared.n_reaching} of the {found.n_reaching} sets that do as much"
        yield [
            "",
            f"{'' if shared.labelled else 'without the label: '}{shared.head}",
            with_interval(shared.change, shared.change_low, shared.change_high, digits=3),
            "",
            "",
            f"{reaching}, {shared.n_sets} of all {len(trial.random_sets)}",
        ]
    if found.shared:
        yield [
            "",
            f"sets without {'any of ' if len(found.shared) > 1 else ''}these",
            *[""] * 3,
            f"{found.n_reaching_without} of {found.n_without} do as much",
        ]
    for share in found.shapley:
        value = f"{share.value:+z.3f} ± {share.standard_error:.3f}"
        yield [
            "",
            f"{share.head}'s share",
            value,
            "",
            "",
            f"Shapley value; alone {share.alone:+z.3f}",
        ]
    for backup in found.backups or ():
        yield [
            "",
            f"stands in: {backup.head}",
            with_interval(backup.growth, backup.growth_low, backup.growth_high, digits=3),
            "",
            "",
            f"{backup.alone:+z.3f} alone, {backup.after:+z.3f} after the set",
        ]
    if found.backups == ():
        yield ["", "stands in: no head", *[""] * 3, "no effect grows when the set is ablated"]


def with_interval(value: float, low: float, high: float, *, digits: int) -> str:
    """A signed figure with its interval, as far as there are any: `+0.92 [+0.91, +0.93]`."""
    if value != value:
        return ""
    interval = f" [{low:+.{digits}f}, {high:+.{digits}f}]" if low == low else ""
    return f"{value:+.{digits}f}{interval}"


def _tested_row(trial: HypothesisTest) -> dict[str, Any]:
    return {
        "label": trial.label,
        "heads": " ".join(map(str, trial.heads)),
        "n_heads": len(trial.heads),
        "stimulus": trial.stimulus,
        "n_sequences": trial.n_sequences,
        "n_seen": trial.n_seen,
        "n_queries": trial.n_queries,
        "clean_loss": trial.clean_loss,
        **{
            field: getattr(trial.effect, field) for field in ("change", "change_low", "change_high")
        },
        "random_mean": float(trial.effect.random.mean()),
        "random_max": float(trial.effect.random.max()) if len(trial.random_sets) else None,
        "n_random": len(trial.random_sets),
        "all_sets": trial.are_all,
        **{
            field: getattr(trial.effect, field)
            for field in ("effect", "effect_low", "effect_high", "percentile", "p")
        },
        "q": trial.q,
        "rank_in_layer": None if trial.rank_in_layer is None else trial.rank_in_layer[0],
        "interval": trial.effect.interval,
        "verdict": trial.verdict,
        "reason": trial.reason,
    }
