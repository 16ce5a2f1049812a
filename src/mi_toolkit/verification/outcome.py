"""What a check finds: a figure, its limit, a verdict and a sentence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["passed", "failed", "not applicable"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One check of one model."""

    figure: float
    """What was measured; the sentence says what it is. NaN where nothing was."""

    limit: float
    """What the figure is held to."""

    at_least: bool
    """Whether the figure has to reach the limit; else it must not exceed it."""

    sentence: str
    """What the figure is, and what it means here."""

    @property
    def verdict(self) -> Verdict:
        """Whether the figure kept to its limit; a figure that is no number did not."""
        if math.isnan(self.limit):
            return "not applicable"
        kept = self.figure >= self.limit if self.at_least else self.figure <= self.limit
        return "passed" if kept else "failed"


def at_most(limit: float, figure: float, sentence: str) -> Outcome:
    """Passed up to the limit."""
    return Outcome(figure=figure, limit=limit, at_least=False, sentence=sentence)


def at_least(limit: float, figure: float, sentence: str) -> Outcome:
    """Passed from the limit on."""
    return Outcome(figure=figure, limit=limit, at_least=True, sentence=sentence)


def not_applicable(sentence: str) -> Outcome:
    """Nothing to check, and why."""
    return Outcome(figure=math.nan, limit=math.nan, at_least=False, sentence=sentence)
