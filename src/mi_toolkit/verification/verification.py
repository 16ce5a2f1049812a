"""`Verification`: the checks of one model, with figures and verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mi_toolkit.provenance import Provenance
from mi_toolkit.shown import ShownAsTable, TextTable
from mi_toolkit.verification.completions import Completion
from mi_toolkit.verification.outcome import Outcome

if TYPE_CHECKING:
    from pandas import DataFrame

HEADER = ("check", "figure", "limit", "verdict", "what it is")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Verification(ShownAsTable):
    """What was checked of a model, and whether it holds."""

    model: str
    """The model's name, as it was loaded."""

    outcomes: Mapping[str, Outcome]
    """The checks by name, in the order of `CHECKS`."""

    completions: tuple[Completion, ...]
    """What the model goes on with behind three prompts; none where it did not load."""

    provenance: Provenance | None
    """Model, text and versions; None where it did not load."""

    @property
    def failed(self) -> tuple[str, ...]:
        """The checks that did not hold."""
        return tuple(name for name, each in self.outcomes.items() if each.verdict == "failed")

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failed

    def title(self) -> str:
        """The result in one line."""
        counts = {"passed": 0, "failed": 0, "not applicable": 0}
        for outcome in self.outcomes.values():
            counts[outcome.verdict] += 1
        told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
        return f"Verification of {self.model}: {told}"

    def rows(self) -> list[list[str]]:
        """The table in words, under `HEADER`."""
        return [
            [name, *_figures(outcome), outcome.verdict, outcome.sentence]
            for name, outcome in self.outcomes.items()
        ]

    def to_pandas(self) -> DataFrame:
        """One row per check."""
        from mi_toolkit.tables import table_of

        return table_of(
            {"model": self.model, "check": name, "verdict": each.verdict, **asdict(each)}
            for name, each in self.outcomes.items()
        )

    def record(self) -> dict[str, Any]:
        """Everything as plain values that JSON can hold."""
        return {
            "model": self.model,
            "passed": self.passed,
            "checks": [
                {"check": name, "verdict": each.verdict, **asdict(each)}
                for name, each in self.outcomes.items()
            ],
            "completions": [asdict(each) for each in self.completions],
            "provenance": None if self.provenance is None else asdict(self.provenance),
        }

    def text_table(self) -> TextTable:
        """The checks in words, and what the model says."""
        said = [["", "", "", f"{each.prompt!r} → {each.text!r}"] for each in self.completions]
        rows = [row[:4] for row in self.rows()]
        return TextTable(title=self.title(), header=HEADER[:4], rows=[*rows, *said])


def completion_table(found: Iterable[Verification]) -> DataFrame:
    """One row per model and prompt."""
    from mi_toolkit.tables import table_of

    return table_of(
        {"model": each.model, **asdict(said)} for each in found for said in each.completions
    )


def _figures(outcome: Outcome) -> list[str]:
    if outcome.verdict == "not applicable":
        return ["", ""]
    sign = "≥" if outcome.at_least else "≤"
    return [f"{outcome.figure:.3g}", f"{sign} {outcome.limit:.3g}"]
