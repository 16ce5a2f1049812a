"""What a search for super weights gives: each candidate, and the model with it and without."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from mi_toolkit.core.display import TextTable
from mi_toolkit.core.provenance import Provenance
from mi_toolkit.core.result import Result
from mi_toolkit.core.tables import frame
from mi_toolkit.weights.evaluation import Quality

if TYPE_CHECKING:
    from mi_toolkit.core.tables import DataFrame


SCALES = (0.0, 0.25, 0.5, 0.75, 1.25, 1.5, 2.0)
"""Factors that the weight is multiplied by in turn; 1 is the model as it is."""


@dataclass(frozen=True, kw_only=True)
class SuperWeight:
    """A candidate, and what the model is without it."""

    matrix: str
    """Canonical name: `blocks.2.mlp.W_out`."""

    layer: int
    row: int
    """The neuron."""

    column: int
    """The channel of the residual stream."""

    hf_name: str
    hf_row: int
    hf_column: int

    value: float
    """The weight."""

    spike: float
    """The weight's largest write over the median of its layer's channels' largest."""

    channel_norm: float
    """Norm of the weights that write into its channel over the median channel's: by the weights
    alone, how far the channel stands out. The channel is a row of Hugging Face's matrix, or a
    column of GPT-2's."""

    input_spike: float
    """The neuron's largest output over the median of its layer's neurons' largest."""

    input: float
    """The neuron's largest output on the search text, with its sign."""

    write: float
    """What the neuron writes there: input times weight."""

    screened_rise: float
    """Rise of the loss on the search text with this weight at 0, in nats per token."""

    without: Quality | None
    """The model with this weight at 0, on the held-out text; None where the rise on the search
    text was too small to look further."""

    restored: Quality | None
    """The model with every other candidate at 0; None but of confirmed ones looked at in detail."""

    sweep: tuple[tuple[float, float], ...]
    """Scale and loss, where it was looked at in detail; empty elsewhere."""

    is_confirmed: bool
    """Whether the loss without it is higher by `min_rise` or more on the held-out text."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SuperWeights(Result):
    """Candidates in order of what their removal costs: confirmed, refuted, screened out."""

    FORMAT: ClassVar[str] = "mi_toolkit super weights 1"

    baseline: Quality
    """The model as it is."""

    candidates: tuple[SuperWeight, ...]
    """Empty where no write stands out."""

    none_left: Quality
    """The model with all candidates at 0."""

    min_rise: float
    """The bar for confirmation, in nats per token."""

    n_left_out: int
    """Weights that stand out too, but less than the candidates, and were not looked at."""

    n_passes: float
    """What the search cost: bare forward passes over the search text. One that begins at a later
    layer counts by the layers that it ran, one over the held-out text by its tokens."""

    provenance: Provenance
    """Model, texts and versions."""

    @property
    def confirmed(self) -> tuple[SuperWeight, ...]:
        """Those whose removal the model does not bear."""
        return tuple(each for each in self.candidates if each.is_confirmed)

    def text_table(self) -> TextTable:
        """One row per candidate."""
        rows = [
            (
                f"{each.matrix}[{each.row}, {each.column}]",
                f"{each.value:+.4g}",
                f"{each.spike:.0f}×",
                f"{each.screened_rise:+.2g}",
                "" if each.without is None else f"{each.without.perplexity:.4g}",
                "confirmed" if each.is_confirmed else "not confirmed",
                f"{each.hf_name}[{each.hf_row}, {each.hf_column}]",
            )
            for each in self.candidates
        ]
        header = (
            "weight",
            "value",
            "stands out",
            "loss without, searched",
            "perplexity without",
            "",
            "Hugging Face",
        )
        before = self.baseline
        title = (
            f"SuperWeights of {self.provenance.model}: perplexity {before.perplexity:.4g} on "
            f"{before.n_tokens} held-out tokens, {len(self.confirmed)} confirmed, in "
            f"{self.cost_text()}"
        )
        return TextTable(title=title, header=header if rows else (), rows=rows)

    def cost_text(self) -> str:
        """What the search cost, and what it left out, in words."""
        left = f", {self.n_left_out} that stand out less left out" if self.n_left_out else ""
        return f"{self.n_passes:.1f} passes over the search text{left}"

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """One row per candidate, with loss (nats per token) and perplexity before and after.

        What was not measured, as the screening had ruled it out, is missing.
        """
        for each in self.candidates:
            losses = dict(each.sweep)
            yield {
                **{name: getattr(each, name) for name in _OF_EACH},
                "parameter": each.matrix,
                "component": "W_out",
                "neuron": each.row,
                "loss_before": self.baseline.loss,
                "loss_after": getattr(each.without, "loss", math.nan),
                "perplexity_before": self.baseline.perplexity,
                "perplexity_after": getattr(each.without, "perplexity", math.nan),
                "loss_restored_alone": getattr(each.restored, "loss", math.nan),
                "loss_all_removed": self.none_left.loss,
                **{f"loss_at_{scale:g}": losses.get(scale, math.nan) for scale in SCALES},
            }

    def to_pandas(self) -> DataFrame:
        """The rows as a table, which has its columns also where nothing stands out."""
        rows = list(self.rows())
        return frame({name: [row[name] for row in rows] for name in COLUMNS})


_OF_EACH = (
    *("layer", "row", "column", "hf_name", "hf_row", "hf_column", "value", "spike"),
    *("channel_norm", "input_spike", "input", "write", "screened_rise", "is_confirmed"),
)
COLUMNS = (
    *_OF_EACH,
    *("parameter", "component", "neuron", "loss_before", "loss_after", "perplexity_before"),
    *("perplexity_after", "loss_restored_alone", "loss_all_removed"),
    *(f"loss_at_{scale:g}" for scale in SCALES),
)
"""The columns of the table, in their order."""
