"""`Attribution`: a score for each token of a prompt, and what the scores explain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.core.display import TextTable, counted
from mi_toolkit.core.predictions import Prediction
from mi_toolkit.core.provenance import Provenance
from mi_toolkit.core.result import Result

if TYPE_CHECKING:
    pass

_SHOWN = 5


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Attribution(Result):
    """Scores of a prompt's tokens for one prediction, and how far they add up."""

    FORMAT: ClassVar[str] = "mi_toolkit attribution 2"

    method: str
    """The method, by its name in `METHODS`."""

    objective: str
    """What F is of the target: its `logit`, or its `log_prob` in nats."""

    target: tuple[Prediction, ...]
    """The token that is explained, as the model rates it after the prompt; of a contrast both: F
    is the first one's figure less the second one's."""

    ids: Int[Tensor, " position"]
    """The prompt."""

    tokens: tuple[str, ...]
    """Its tokens as text."""

    scores: Float[Tensor, " position"]
    """A score for each token, in the unit of F; of `attention_rollout` a share. Of a method with a
    baseline, above 0 the token speaks for the target and below 0 against it."""

    value: float
    """F on the prompt."""

    baseline: str | None
    """What stands for no information; None where the method needs nothing for it."""

    baseline_value: float
    """F with every token replaced by the baseline; NaN without one."""

    completeness_error: float
    """|Σ scores − (value − baseline_value)| / |value − baseline_value|. Of `integrated_gradients`
    the error of the integral; of others with a baseline, how far from linear F is. NaN without."""

    tolerance: float
    """The completeness error that integrated gradients had to reach."""

    steps: int | None
    """Points of the integral; None where there is none."""

    n_passes: int
    """How often the prompt went through the model, forward or forward and backward: a pass of n
    rows counts n."""

    jump: float | None
    """By how much F changes in the first 1/16,384 of the line from the baseline, where that is more
    than the tolerance lets be missed and the scores do not add up; None elsewhere."""

    better_baseline: str | None
    """A baseline from which F does not jump, where it jumps from this one."""

    provenance: Provenance
    """Model, prompt and versions."""

    @property
    def is_signed(self) -> bool:
        """Whether scores below 0 can be: those of a method with a baseline."""
        return self.baseline is not None

    @property
    def is_complete(self) -> bool:
        """Whether the scores add up, to the tolerance."""
        return self.completeness_error <= self.tolerance

    def top(self, k: int = _SHOWN) -> list[tuple[int, str, float]]:
        """The tokens with the largest scores by size: position, text and score."""
        order = self.scores.abs().sort(descending=True, stable=True).indices[:k].tolist()
        return [(place, self.tokens[place], float(self.scores[place])) for place in order]

    def title(self) -> str:
        """What is explained, in one line."""
        return f"What {self.target_text()} rests on in {self.provenance.model}"

    def target_text(self) -> str:
        """The target in words: `' Mary'`, or `' Mary' rather than ' John'`."""
        return " rather than ".join(repr(token.text) for token in self.target)

    def sum_text(self) -> str:
        """Whether the scores add up, in one sentence; empty where they are not meant to."""
        if not self.is_signed:
            return ""
        total, whole = float(self.scores.double().sum()), self.value - self.baseline_value
        adds = f"The scores add up to {total:+.3f} of {whole:+.3f}, error {_percent(self)}"
        if self.steps is None:
            return f"{adds}."
        steps, passes = counted(self.steps, "step"), counted(self.n_passes, "pass", "passes")
        adds = f"{adds} with {steps}, {passes} of the prompt"
        return f"{adds}." if self.is_complete else f"{adds}: {self._shortfall()}"

    def _shortfall(self) -> str:
        """That the scores do not add up, why, and the way out."""
        said = f"NOT within {100 * self.tolerance:g}%. Do not trust single scores; "
        if self.jump is None:
            contrast = "ask a contrast of two tokens, in which what moves all logits falls away, "
            return (
                f"{said}raise max_steps (and leave steps out), "
                f"{contrast if len(self.target) == 1 else ''}or take occlusion."
            )
        other = "another baseline, or occlusion"
        if self.better_baseline is not None:
            other = f"baseline={self.better_baseline!r}"
        return (
            f"{said}no number of steps mends it, as F jumps by {self.jump:+.3f} right after the "
            f"baseline {self.baseline!r}: take {other}."
        )

    def rows(self) -> Iterable[Mapping[str, Any]]:
        """One row per token: position, id, text, score."""
        rows = zip(self.ids.tolist(), self.tokens, self.scores.tolist(), strict=True)
        return (
            {"position": place, "id": token, "token": text, "score": score}
            for place, (token, text, score) in enumerate(rows)
        )

    def text_table(self) -> TextTable:
        """The tokens with the largest scores, in words."""
        rows = [[f"{score:+.3f}", f"{text!r} at {place}"] for place, text, score in self.top()]
        if len(self.tokens) > _SHOWN:
            rows.append(["", f"and {len(self.tokens) - _SHOWN} more"])
        title = " ".join(filter(None, [f"{self.title()}, by {self.method}.", self.sum_text()]))
        return TextTable(title=title, rows=rows)


def _percent(found: Attribution) -> str:
    error = found.completeness_error
    return f"{error:.2%}" if error < 10 else f"{error:.3g} times"
