"""`Pipeline`: a prompt's way through a model, stage by stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mi_toolkit.errors import unknown_name
from mi_toolkit.heads.head import Head
from mi_toolkit.pipeline.stages import (
    AttentionStage,
    EmbeddingStage,
    MlpStage,
    OutputStage,
    TokenStage,
)
from mi_toolkit.provenance import Provenance
from mi_toolkit.saved_result import SavedResult
from mi_toolkit.shown import ShownAsTable, TextTable

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Pipeline(SavedResult, ShownAsTable):
    """The five stages of one prompt's way through a model."""

    FORMAT: ClassVar[str] = "mi_toolkit pipeline 2"

    prompt: str
    """The prompt's text; decoded, where ids were given."""

    tokens: TokenStage
    """The text as ids."""

    embedding: EmbeddingStage
    """The ids as vectors."""

    attention: AttentionStage
    """Where every head looks."""

    mlp: MlpStage
    """What every MLP writes."""

    output: OutputStage
    """What comes next, by the model and by each of its layers."""

    shapes: Mapping[str, Mapping[str, tuple[int, ...]]]
    """Per stage: the activations and weights that it is, by name, with their shapes."""

    texts: Mapping[int, str]
    """The text of every token that stands here, by id."""

    provenance: Provenance
    """Model, prompt and versions."""

    def to_pandas(self, stage: str = "tokens") -> DataFrame:
        """One stage as a table: `tokens` with embeddings, `attention`, `mlp`, `output` or `lens`.

        Raises:
            UnknownNameError: no such stage.
        """
        from mi_toolkit.pipeline.rows import ROWS
        from mi_toolkit.tables import table_of

        if stage not in ROWS:
            raise unknown_name("stage of a pipeline", stage, ROWS)
        return table_of(ROWS[stage](self))

    def pattern_to_pandas(self, head: Head | tuple[int, int] | str) -> DataFrame:
        """One head's attention as a table: a row per token and per token that it may look at.

        Raises:
            UnknownNameError: there is no such head.
        """
        from mi_toolkit.pipeline.rows import pattern_rows
        from mi_toolkit.tables import table_of

        return table_of(pattern_rows(self, Head.of(head)))

    def title(self) -> str:
        """What was done, in one line."""
        return f"{self.provenance.model} on {len(self.tokens.ids)} tokens"

    def summary(self) -> list[tuple[str, str]]:
        """Each stage in one line."""
        norms = self.embedding.input_norms
        labelled = self.attention.labels
        n_heads = self.attention.entropies.numel()
        sure = ", ".join(map(str, self.output.predictions[:3]))
        lines = [
            ("tokens", " ".join(map(repr, self.tokens.texts[:12])) + self._more()),
            ("embedding", f"norms {float(norms.min()):.2f} to {float(norms.max()):.2f}"),
            (
                "attention",
                f"{len(labelled)} of {n_heads} heads labelled on {self.attention.labelled_on}",
            ),
            ("mlp", self._neurons()),
            ("output", sure),
        ]
        if self.output.lens is not None:
            lines.append(("lens", self._settled()))
        return lines

    def _more(self) -> str:
        left = len(self.tokens.texts) - 12
        return f" and {left} more" if left > 0 else ""

    def _neurons(self) -> str:
        if not self.mlp.layers:
            return "no neurons to read"
        most = self.mlp.activations[:, 0].abs()
        row = int(most.argmax())
        neuron, layer = int(self.mlp.neurons[row, 0]), self.mlp.layers[row]
        value = float(self.mlp.activations[row, 0])
        at = self.tokens.texts[int(self.mlp.positions[row, 0])]
        return f"most active: L{layer}N{neuron} {value:+.2f} at {at!r}"

    def _settled(self) -> str:
        """From which layer on the lens says what the model says in the end."""
        lens = self.output.lens
        if lens is None:
            return ""
        agrees = (lens.final_ranks[:, -1] == 1).tolist()
        first = len(agrees) - 1
        while first > 0 and agrees[first - 1]:
            first -= 1
        return f"the prediction stands from {lens.names[first]} on"

    def text_table(self) -> TextTable:
        """The stages in words."""
        return TextTable(title=f"Pipeline of {self.title()}", rows=self.summary())
