"""`Pipeline`: a prompt's way through a model, stage by stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.core.display import TextTable
from mi_toolkit.core.errors import ReportError, UnknownNameError, unknown_name
from mi_toolkit.core.head import Head
from mi_toolkit.core.named_axes import NamedAxes
from mi_toolkit.core.predictions import Prediction, ranks_in_order
from mi_toolkit.core.provenance import Provenance
from mi_toolkit.core.result import Result
from mi_toolkit.core.tables import table_of

if TYPE_CHECKING:
    from mi_toolkit.core.tables import DataFrame


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenStage:
    """The text as the model reads it."""

    ids: Int[Tensor, " position"]
    """Token ids."""

    texts: tuple[str, ...]
    """Each token's text, its leading space included."""

    has_bos: bool
    """Whether position 0 is a BOS."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddingStage:
    """Each token as a vector, before any layer."""

    token_norms: Float[Tensor, " position"]
    """Length of the token's embedding as it goes in: times the factor of Gemma and Granite, after
    the norm of BLOOM."""

    position_norms: Float[Tensor, " position"] | None
    """Length of the position's embedding; None where positions come in with the attention."""

    input_norms: Float[Tensor, " position"]
    """Length of what enters the first layer."""

    nearest_ids: Int[Tensor, "position choice"]
    """The tokens whose rows of the embedding matrix point most nearly the same way, nearest
    first."""

    nearest_cosines: Float[Tensor, "position choice"]
    """Cosine of the angle between the two embeddings, in [-1, 1]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class AttentionStage(NamedAxes):
    """Where every head looks."""

    layers: tuple[int, ...]
    """The layers with attention, in the order of the tensors' rows."""

    patterns: Float[Tensor, "layer head query key"]
    """The attention of each head; every row sums to 1."""

    entropies: Float[Tensor, "layer head"]
    """How spread its attention is, as `diffuse` has it, over all queries but the first: mean of the
    entropy over that of all keys that its layer sees. 0 looks at one token, 1 at all alike. NaN for
    a prompt of one token."""

    labels: tuple[tuple[Head, tuple[str, ...]], ...]
    """The heads that carry labels, with these."""

    labelled_on: str
    """What the labels rest on: `this prompt`, or the stimuli of a report that was given."""

    def labels_of(self, head: Head | tuple[int, int] | str) -> tuple[str, ...]:
        """The labels of one head, none where it carries none."""
        return dict(self.labels).get(Head.of(head), ())

    def pattern(self, head: Head | tuple[int, int] | str) -> Float[Tensor, "query key"]:
        """The attention of one head: every row sums to 1.

        Raises:
            UnknownNameError: there is no such head.
        """
        layer, index = Head.of(head)
        n_heads = self.patterns.shape[1]
        if layer not in self.layers or not 0 <= index < n_heads:
            raise UnknownNameError(
                f"There is no attention of {Head(layer, index)} here: the layers with attention "
                f"are {', '.join(map(str, self.layers))}, of {n_heads} heads each."
            )
        return self.patterns[self.layers.index(layer), index]


@dataclass(frozen=True, kw_only=True, eq=False)
class MlpStage:
    """What every MLP writes, and its most active neurons."""

    layers: tuple[int, ...]
    """The layers with an MLP whose neurons can be read, in the order of the tensors' rows."""

    norms: Float[Tensor, "layer position"]
    """Length of what the MLP adds to the residual stream."""

    residual_norms: Float[Tensor, "layer position"]
    """Length of the residual stream after the layer."""

    neurons: Int[Tensor, "layer choice"]
    """The neurons that reach the largest activation (in size) anywhere, a BOS left out."""

    positions: Int[Tensor, "layer choice"]
    """Position at which each neuron reaches it."""

    activations: Float[Tensor, "layer choice"]
    """What they reach, with its sign: what `W_out` is multiplied with."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LensStage:
    """The logit lens: what the model would predict, if it stopped here.

    As a table: `traced.to_pandas("lens")`; to look at: `mi.view(traced)`.
    """

    names: tuple[str, ...]
    """`embedding`, and then each layer, `layer 0` first."""

    top_ids: Int[Tensor, "entry position choice"]
    """The most probable next tokens, best first."""

    top_log_probs: Float[Tensor, "entry position choice"]
    """Their log-probabilities, in nats."""

    final_ranks: Int[Tensor, "entry position"]
    """The rank of what the model predicts in the end: 1 where the lens says the same."""

    final_log_probs: Float[Tensor, "entry position"]
    """Log-probability of the token that the model predicts in the end, in nats."""

    divergences: Float[Tensor, "entry position"]
    """KL(model ‖ lens), in nats: 0 after the last layer."""

    def __repr__(self) -> str:
        depths, positions, _ = self.top_ids.shape
        return (
            f"LensStage: {depths} depths × {positions} positions; a table: traced.to_pandas('lens')"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class OutputStage:
    """What the model predicts after every token."""

    top_ids: Int[Tensor, "position choice"]
    """The most probable next tokens, best first."""

    top_log_probs: Float[Tensor, "position choice"]
    """Their log-probabilities, in nats."""

    entropies: Float[Tensor, " position"]
    """Entropy of the prediction, in nats: 0 is sure."""

    next_log_probs: Float[Tensor, " position-1"]
    """Log-probability of the token that does come next."""

    next_ranks: Int[Tensor, " position-1"]
    """Rank of the token that does come next, 1 for the most probable."""

    predictions: tuple[Prediction, ...]
    """The most probable tokens after the prompt."""

    lens: LensStage | None
    """Predictions read off every layer (the logit lens); None where that was not asked for."""

    def require_lens(self) -> LensStage:
        """The lens.

        Raises:
            ReportError: it was traced without.
        """
        if self.lens is None:
            raise ReportError("This pipeline has no lens: trace it with lens=True.")
        return self.lens


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Pipeline(Result):
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

    def rows(self, stage: str = "tokens") -> Iterable[Mapping[str, Any]]:
        """The rows of one stage: `tokens` with embeddings, `attention`, `mlp`, `output` or `lens`.

        Raises:
            UnknownNameError: no such stage.
        """
        if stage not in ROWS:
            raise unknown_name("stage of a pipeline", stage, ROWS)
        return ROWS[stage](self)

    def to_pandas(self, stage: str = "tokens") -> DataFrame:
        """One stage as a table."""
        return table_of(self.rows(stage))

    def pattern_to_pandas(self, head: Head | tuple[int, int] | str) -> DataFrame:
        """One head's attention as a table: a row per token and per token that it may look at.

        Raises:
            UnknownNameError: there is no such head.
        """
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
        return f"most active: L{layer}N{neuron} {value:+z.2f} at {at!r}"

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


def token_rows(traced: Pipeline) -> Iterator[dict[str, Any]]:
    """Each token with its embedding: norms, and the tokens whose embeddings are nearest."""
    stage, embedding = traced.tokens, traced.embedding
    positions = embedding.position_norms
    for position, (token, text) in enumerate(zip(stage.ids.tolist(), stage.texts, strict=True)):
        cosines = embedding.nearest_cosines[position].tolist()
        near = zip(embedding.nearest_ids[position].tolist(), cosines, strict=True)
        yield {
            "position": position,
            "id": token,
            "token": text,
            "token_norm": float(embedding.token_norms[position]),
            "position_norm": None if positions is None else float(positions[position]),
            "input_norm": float(embedding.input_norms[position]),
            "nearest": "  ".join(f"{traced.texts[each]!r} {cosine:.2f}" for each, cosine in near),
        }


def attention_rows(traced: Pipeline) -> Iterator[dict[str, Any]]:
    """Each head with its labels, and how spread its attention is."""
    stage = traced.attention
    for row, layer in enumerate(stage.layers):
        for head, entropy in enumerate(stage.entropies[row].tolist()):
            yield {
                "layer": layer,
                "head": head,
                "labels": " ".join(stage.labels_of((layer, head))),
                "entropy": entropy,
                "labelled_on": stage.labelled_on,
            }


def pattern_rows(traced: Pipeline, head: Head) -> Iterator[dict[str, Any]]:
    """One head's attention, from each token to each that it may look at."""
    texts = traced.tokens.texts
    for query, row in enumerate(traced.attention.pattern(head).tolist()):
        for key, attention in enumerate(row[: query + 1]):
            yield {
                "head": str(head),
                "query": query,
                "query_token": texts[query],
                "key": key,
                "key_token": texts[key],
                "attention": attention,
            }


def mlp_rows(traced: Pipeline) -> Iterator[dict[str, Any]]:
    """Each layer's most active neurons, and where they are that."""
    stage = traced.mlp
    for row, layer in enumerate(stage.layers):
        for rank, neuron in enumerate(stage.neurons[row].tolist()):
            position = int(stage.positions[row, rank])
            yield {
                "layer": layer,
                "rank": rank + 1,
                "neuron": neuron,
                "position": position,
                "token": traced.tokens.texts[position],
                "activation": float(stage.activations[row, rank]),
                "mean_norm": float(stage.norms[row].mean()),
            }


def output_rows(traced: Pipeline) -> Iterator[dict[str, Any]]:
    """The most probable next tokens after every position."""
    stage = traced.output
    following = [*traced.tokens.ids[1:].tolist(), None]
    for position, text in enumerate(traced.tokens.texts):
        log_probs = stage.top_log_probs[position].tolist()
        choices = zip(
            stage.top_ids[position].tolist(), log_probs, ranks_in_order(log_probs), strict=True
        )
        for token, log_prob, rank in choices:
            yield {
                "position": position,
                "token": text,
                "rank": rank,
                "next_id": token,
                "next": traced.texts[token],
                "log_prob": log_prob,
                "probability": math.exp(log_prob),
                "comes_next": token == following[position],
            }


def lens_rows(traced: Pipeline) -> Iterator[dict[str, Any]]:
    """What each layer would predict after every position, and how far that is from the end."""
    lens = traced.output.require_lens()
    for entry, name in enumerate(lens.names):
        for position, text in enumerate(traced.tokens.texts):
            token = int(lens.top_ids[entry, position, 0])
            yield {
                "after": name,
                "position": position,
                "token": text,
                "next_id": token,
                "next": traced.texts[token],
                "probability": math.exp(float(lens.top_log_probs[entry, position, 0])),
                "final_rank": int(lens.final_ranks[entry, position]),
                "final_log_prob": float(lens.final_log_probs[entry, position]),
                "divergence": float(lens.divergences[entry, position]),
            }


ROWS: Mapping[str, Callable[[Pipeline], Iterator[dict[str, Any]]]] = MappingProxyType(
    {
        "tokens": token_rows,
        "embedding": token_rows,
        "attention": attention_rows,
        "mlp": mlp_rows,
        "output": output_rows,
        "lens": lens_rows,
    }
)
"""The stages' rows by name."""
