"""`edge_attribution`: TransformerLens' attribution patching of the paths between parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.heads.provenance import provenance_of
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.hooked_pass import check_finite_figures
from mi_toolkit.interventions.patching.attribution import scores_of_pairs
from mi_toolkit.interventions.patching.pairs import Pairs, Tokens
from mi_toolkit.process_state import one_job
from mi_toolkit.prompts.tokens import Prompt
from mi_toolkit.provenance import Provenance
from mi_toolkit.saved_result import SavedResult
from mi_toolkit.shown import ShownAsTable, TextTable

if TYPE_CHECKING:
    from pandas import DataFrame

_NAMES = {
    "embed": "embedding",
    "attn_head_out": "L{layer}H{head}",
    "mlp_out": "L{layer}.mlp",
    "q_input": "L{layer}H{head} q",
    "k_input": "L{layer}H{head} k",
    "v_input": "L{layer}H{head} v",
    "mlp_in": "L{layer}.mlp",
    "logits": "logits",
}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class EdgeAttribution(SavedResult, ShownAsTable):
    """For each path from what one part writes to what another reads, what a clean write would do.

    In units of the metric, of first order, at one position each: a path stays at its position.
    """

    FORMAT: ClassVar[str] = "mi_toolkit edge attribution 1"

    scores: Float[Tensor, " edge"]
    """The estimated change of the metric."""

    writers: tuple[str, ...]
    """Per edge what writes: `embedding`, `L5H1` or `L5.mlp`."""

    readers: tuple[str, ...]
    """Per edge what reads: `L6H2 q`, `L6H2 k`, `L6H2 v`, `L6.mlp` or `logits`."""

    at: Int[Tensor, " edge"]
    """Per edge its position."""

    clean: float
    """The metric of the clean run."""

    corrupted: float
    """The metric of the corrupted run."""

    positions: tuple[str, ...]
    """The tokens, of both prompts where they differ."""

    metric: str
    """What the metric reads, in words."""

    provenance: Provenance
    """Model, prompts and versions."""

    def top(self, n: int = 10) -> list[tuple[str, str, str, float]]:
        """Writer, reader, token and estimate of what would change the metric most, up or down."""
        order = self.scores.abs().argsort(descending=True)[:n].tolist()
        return [
            (
                self.writers[index],
                self.readers[index],
                self.positions[int(self.at[index])],
                float(self.scores[index]),
            )
            for index in order
        ]

    def to_pandas(self) -> DataFrame:
        """One row per edge."""
        from mi_toolkit.tables import table_of

        edges = zip(self.writers, self.readers, self.at.tolist(), self.scores.tolist(), strict=True)
        return table_of(
            {
                "model": self.provenance.model,
                "writer": writer,
                "reader": reader,
                "position": position,
                "token": self.positions[position],
                "estimate": score,
            }
            for writer, reader, position, score in edges
        )

    def title(self) -> str:
        """What it is of, in words."""
        return f"Paths between parts of {self.provenance.model}"

    def text_table(self) -> TextTable:
        """The paths that would change the metric most."""
        about = f"{self.metric}, {self.clean:+.3f} clean, {self.corrupted:+.3f} corrupted"
        rows = [[*names, f"{score:+.3f}"] for *names, score in self.top()]
        title = f"{self.title()}: {about}"
        header = ["from", "to", "at token", "estimated change"]
        return TextTable(title=title, header=header, rows=rows)


@one_job
def edge_attribution(
    model: HookedModel,
    clean: Prompt,
    corrupted: Prompt,
    *,
    target: Tokens,
    other: Tokens | None = None,
) -> EdgeAttribution:
    """Estimate which paths between parts carry the difference between prompts.

    `(clean - corrupted) · gradient`, of what the writer writes, at the reader's input, by
    TransformerLens (4.x, in a TransformerBridge). A part's paths add up to its own estimate in
    `attribution_patching`. There are many paths: this suits small models and short prompts.

    Args:
        model: a TransformerBridge; it is left as it was.
        clean: as in `activation_patching`.
        corrupted: as in `activation_patching`.
        target: as in `activation_patching`.
        other: as in `activation_patching`.

    Raises:
        PromptError: no pairs, different lengths, not one token, or prompts that do not differ.
        UnsupportedModelError: TransformerLens refuses the model; the message says why. Where keys
            and values are shared (GQA), no head has an input of its own to read them by.
        NotFiniteError: what the model computes, or its gradient, is NaN or infinite.
    """
    pairs = Pairs.of(model, clean, corrupted, target, other)
    full, none = pairs.both_metrics(model)
    totals: dict[tuple[Any, Any], float] = {}
    for found in scores_of_pairs(model, pairs, "edge"):
        for edge, score in found.edge_scores.items():
            totals[edge] = totals.get(edge, 0.0) + score / len(pairs.clean)
    scores = torch.tensor(list(totals.values()), dtype=torch.float32)
    check_finite_figures(model, "The estimates", scores)
    return EdgeAttribution(
        scores=scores,
        writers=tuple(_name(writer) for writer, _ in totals),
        readers=tuple(_name(reader) for _, reader in totals),
        at=torch.tensor([writer.position for writer, _ in totals]),
        clean=full,
        corrupted=none,
        positions=pairs.positions(model),
        metric=pairs.in_words(model),
        provenance=provenance_of(
            model, {"clean": pairs.clean, "corrupted": pairs.corrupted}, seed=0
        ),
    )


def _name(node: Any) -> str:
    return _NAMES[node.kind].format(layer=node.layer, head=node.head)
