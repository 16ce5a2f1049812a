"""`AblationEffect`: what one ablation did to one prediction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.core.display import TableRepr, TextTable
from mi_toolkit.core.errors import unknown_name
from mi_toolkit.core.predictions import Prediction
from mi_toolkit.core.provenance import Provenance
from mi_toolkit.core.result import SavedResult
from mi_toolkit.core.tables import table_of
from mi_toolkit.interventions.components import Component

if TYPE_CHECKING:
    from mi_toolkit.core.tables import DataFrame


FIGURES: Mapping[str, str] = {
    "log_prob": "log-probability of the target (nats)",
    "logit": "logit of the target",
    "rank": "rank of the target",
    "kl": "KL from the clean prediction (nats)",
    "loss": "loss of the prompt's own tokens (nats)",
}
"""The five figures, and what they are of."""

HEADER = ("", "clean", "ablated", "change", "random sets: mean, range", "changes more than")


@dataclass(frozen=True, kw_only=True, eq=False)
class FreeText:
    """What was generated greedily after the prompt, before and under ablation.

    From the first token that differs on, the two answer different texts: that they differ is an
    effect, how much they differ is none.
    """

    before: tuple[int, ...]
    """Ids without ablation."""

    after: tuple[int, ...]
    """Ids under it."""

    texts: tuple[str, str]
    """The two as text."""

    @property
    def same(self) -> int:
        """How many tokens they share from the beginning on."""
        pairs = enumerate(zip(self.before, self.after, strict=False))
        shortest = min(len(self.before), len(self.after))
        return next((place for place, (one, other) in pairs if one != other), shortest)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class AblationEffect(SavedResult, TableRepr):
    """One prompt and one target token, with some components ablated and without."""

    FORMAT: ClassVar[str] = "mi_toolkit ablation effect 2"

    components: tuple[Component, ...]
    """What was ablated, together."""

    how: str
    """The kind of ablation."""

    reference: str
    """What it took its values from, in words."""

    ids: Int[Tensor, " position"]
    """The prompt, as it ran."""

    texts: tuple[str, ...]
    """The prompt's tokens as text."""

    before: Prediction
    """The target after the prompt, with nothing ablated."""

    after: Prediction
    """The target under ablation."""

    top_before: tuple[Prediction, ...]
    """The most probable tokens with nothing ablated, best first."""

    top_after: tuple[Prediction, ...]
    """The most probable tokens under ablation, best first."""

    kl: Float[Tensor, " position"]
    """At each position, KL divergence of the prediction from the clean one, in nats."""

    losses_before: Float[Tensor, " position-1"]
    """Cross-entropy of each of the prompt's tokens but the first, with nothing ablated."""

    losses_after: Float[Tensor, " position-1"]
    """The same under ablation."""

    controls: tuple[tuple[Component, ...], ...]
    """Random sets of the same size, from the same layers; whole parts from other layers."""

    control_changes: Mapping[str, Float[Tensor, " control"]]
    """Per figure, what it changed by under each random set."""

    free_text: FreeText | None
    """What was generated freely; None where nothing was asked for."""

    provenance: Provenance
    """Model, prompt and versions."""

    @property
    def change(self) -> dict[str, float]:
        """What each figure changed by: `log_prob`, `logit`, `rank`, `kl` and `loss`."""
        return {
            "log_prob": self.after.log_prob - self.before.log_prob,
            "logit": self.after.logit - self.before.logit,
            "rank": float(self.after.rank - self.before.rank),
            "kl": float(self.kl[-1]),
            "loss": float((self.losses_after - self.losses_before).mean()),
        }

    def share_beyond(self, figure: str) -> float:
        """The share of random sets that change a figure less, up or down; NaN without any.

        Raises:
            UnknownNameError: no such figure.
        """
        if figure not in FIGURES:
            raise unknown_name("figure", figure, FIGURES)
        changes = self.control_changes[figure]
        if not len(changes):
            return float("nan")
        return float((changes.abs() < abs(self.change[figure])).float().mean())

    def to_pandas(self) -> DataFrame:
        """One row for the ablation and one for each random set, a column for each figure."""
        sets = [self.components, *self.controls]
        rows = [
            {
                "model": self.provenance.model,
                "how": self.how,
                "components": " ".join(map(str, components)),
                "is_control": bool(place),
                "target": self.before.text,
                **(
                    {name: float(self.control_changes[name][place - 1]) for name in FIGURES}
                    if place
                    else self.change
                ),
            }
            for place, components in enumerate(sets)
        ]
        return table_of(rows)

    def title(self) -> str:
        """What was done, in one line."""
        names = " ".join(map(str, self.components)) or "Nothing"
        if len(self.components) > 6:
            names = f"{len(self.components)} components"
        return f"{names} of {self.provenance.model} under {self.how} ablation"

    def cells(self) -> list[list[str]]:
        """The five figures in words, under `HEADER`."""
        loss = [float(each.mean()) for each in (self.losses_before, self.losses_after)]
        values = {
            "log_prob": (self.before.log_prob, self.after.log_prob),
            "logit": (self.before.logit, self.after.logit),
            "rank": (float(self.before.rank), float(self.after.rank)),
            "kl": (0.0, float(self.kl[-1])),
            "loss": (loss[0], loss[1]),
        }
        return [
            [
                FIGURES[name],
                *(_number(value, name) for value in values[name]),
                _number(change, name, sign=True),
                *self._beside(name),
            ]
            for name, change in self.change.items()
        ]

    def _beside(self, name: str) -> tuple[str, str]:
        random = self.control_changes[name]
        if not len(random):
            return "", ""
        mean, low, high = (
            _number(float(value), name if name != "rank" else "", sign=True)
            for value in (random.mean(), random.min(), random.max())
        )
        share = round(self.share_beyond(name) * len(random))
        return f"{mean}, {low} to {high}", f"{share} of {len(random)}"

    def text_table(self) -> TextTable:
        """The target's probability before and after, and the five figures."""
        about = f"{self.before} clean, {self.after.probability:.1%} ablated"
        title = f"{self.title()}: target {about}"
        return TextTable(title=title, header=HEADER, rows=self.cells())


def _number(value: float, name: str, *, sign: bool = False) -> str:
    if name == "rank":
        return f"{value:+.0f}" if sign else f"{value:.0f}"
    return f"{value:+.3f}" if sign else f"{value:.3f}"
