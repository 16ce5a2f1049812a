"""`Generation`: what a model wrote, how sure it was, and what else it looked at on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.errors import unknown_name
from mi_toolkit.generation.beam_tree import BeamTree
from mi_toolkit.provenance import Provenance
from mi_toolkit.saved_result import SavedResult
from mi_toolkit.shown import ShownAsTable, TextTable

if TYPE_CHECKING:
    from pandas import DataFrame

HEADER = ("score", "log-probability", "tokens", "ended", "text")


@dataclass(frozen=True, kw_only=True, eq=False)
class GeneratedSequence:
    """One continuation of the prompt."""

    ids: Int[Tensor, " token"]
    """The new tokens, the one that ended it included."""

    text: str
    """The new text, without special tokens."""

    log_probs: Float[Tensor, " token"]
    """Each token's log-probability behind all before it, in nats."""

    score: float
    """What sequences are ordered by: the sum of `log_probs` over `len(ids) ** length_penalty`.
    In beam search it is Hugging Face's `sequences_scores`."""

    ended: bool
    """Whether it came to an end-of-sequence token; else it was cut off at `max_new_tokens`."""

    leaf: int
    """The node of the tree that it leads to."""

    alternative_ids: Int[Tensor, "token choice"]
    """The most probable tokens in each token's place, best first."""

    alternative_log_probs: Float[Tensor, "token choice"]
    """Their log-probabilities, in nats."""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Generation(SavedResult, ShownAsTable):
    """Continuations of one prompt, the best first."""

    FORMAT: ClassVar[str] = "mi_toolkit generation 2"

    prompt: str
    """The prompt's text; decoded, where ids were given."""

    prompt_ids: Int[Tensor, " position"]
    """What the model was fed."""

    sequences: tuple[GeneratedSequence, ...]
    """As many as there were beams, by score."""

    tree: BeamTree
    """All beams that were kept at some step, or came to an end."""

    texts: Mapping[int, str]
    """The text of every token that stands here, by id."""

    max_new_tokens: int
    """Tokens to write at most."""

    num_beams: int
    """Beams that ran side by side; 1 is greedy search."""

    length_penalty: float
    """The power of its length that a sequence's log-probability is divided by."""

    early_stopping: bool
    """Whether the search stopped at `num_beams` sequences that ended."""

    eos_ids: tuple[int, ...]
    """Tokens that end a sequence."""

    use_cache: bool
    """Whether keys and values of earlier positions were kept from step to step."""

    hooks: tuple[str, ...]
    """The hook points that had hooks while it ran, such as those of an ablation."""

    provenance: Provenance
    """Model, prompt and versions."""

    @property
    def text(self) -> str:
        """The best sequence's text."""
        return self.sequences[0].text

    def tokens(self, ids: Int[Tensor, " token"]) -> tuple[str, ...]:
        """The text of each of these tokens, its leading space included.

        Raises:
            KeyError: a token that does not stand here.
        """
        return tuple(self.texts[int(each)] for each in ids)

    def to_pandas(self, rows: str = "tokens") -> DataFrame:
        """One row per token of each sequence, per alternative of each token, or per beams' node.

        Raises:
            UnknownNameError: no such kind of rows.
        """
        from mi_toolkit.generation.rows import ROWS
        from mi_toolkit.tables import table_of

        if rows not in ROWS:
            raise unknown_name("kind of rows", rows, ROWS)
        return table_of(ROWS[rows](self))

    def title(self) -> str:
        """What was done, in one line."""
        search = f"{self.num_beams} beams" if self.num_beams > 1 else "greedy"
        under = f", under hooks at {len(self.hooks)} points" if self.hooks else ""
        under = f", under hooks at {self.hooks[0]}" if len(self.hooks) == 1 else under
        return f"{self.provenance.model} goes on ({search}{under})"

    def rows(self) -> list[list[str]]:
        """The sequences in words, under `HEADER`."""
        return [
            [
                f"{each.score:.3f}",
                f"{float(each.log_probs.sum()):.2f}",
                str(len(each)),
                "yes" if each.ended else "no",
                repr(each.text),
            ]
            for each in self.sequences
        ]

    def text_table(self) -> TextTable:
        """The sequences in words."""
        title = f"{self.title()} after {self.prompt!r}"
        return TextTable(title=title, header=HEADER, rows=self.rows())
