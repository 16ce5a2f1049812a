"""The five stages of a prompt's way through a model, each a record."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.errors import UnknownNameError
from mi_toolkit.heads.head import Head
from mi_toolkit.predictions import Prediction


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
    """Length of the token's embedding."""

    position_norms: Float[Tensor, " position"] | None
    """Length of the position's embedding; None where positions come in with the attention."""

    input_norms: Float[Tensor, " position"]
    """Length of what enters the first layer."""

    nearest_ids: Int[Tensor, "position choice"]
    """The tokens whose embeddings point most nearly the same way, the nearest first."""

    nearest_cosines: Float[Tensor, "position choice"]
    """Cosine of the angle between the two embeddings, in [-1, 1]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class AttentionStage:
    """Where every head looks."""

    layers: tuple[int, ...]
    """The layers with attention, in the order of the tensors' rows."""

    patterns: Float[Tensor, "layer head query key"]
    """The attention of each head; every row sums to 1."""

    entropies: Float[Tensor, "layer head"]
    """How spread its attention is: mean over queries of the entropy over that of all keys alike. 0
    looks at one token, 1 at all. NaN for a prompt of one token."""

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
    """Length of the residual stream behind the layer."""

    neurons: Int[Tensor, "layer choice"]
    """The neurons that reach the largest activation (in size) anywhere, a BOS left out."""

    positions: Int[Tensor, "layer choice"]
    """Where they reach it."""

    activations: Float[Tensor, "layer choice"]
    """What they reach, with its sign: what `W_out` is multiplied with."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LensStage:
    """The logit lens: what the model would predict, if it stopped here."""

    names: tuple[str, ...]
    """`embedding`, and then each layer, `layer 0` first."""

    top_ids: Int[Tensor, "entry position choice"]
    """The most probable next tokens, best first."""

    top_log_probs: Float[Tensor, "entry position choice"]
    """Their log-probabilities, in nats."""

    final_ranks: Int[Tensor, "entry position"]
    """The rank of what the model predicts in the end: 1 where the lens says the same."""

    final_log_probs: Float[Tensor, "entry position"]
    """Its log-probability, in nats."""

    divergences: Float[Tensor, "entry position"]
    """KL(model ‖ lens), in nats: 0 behind the last layer."""


@dataclass(frozen=True, kw_only=True, eq=False)
class OutputStage:
    """What the model predicts behind every token."""

    top_ids: Int[Tensor, "position choice"]
    """The most probable next tokens, best first."""

    top_log_probs: Float[Tensor, "position choice"]
    """Their log-probabilities, in nats."""

    entropies: Float[Tensor, " position"]
    """Entropy of the prediction, in nats: 0 is sure."""

    next_log_probs: Float[Tensor, " position-1"]
    """Log-probability of the token that does come next."""

    next_ranks: Int[Tensor, " position-1"]
    """Its rank, 1 for the most probable."""

    predictions: tuple[Prediction, ...]
    """The most probable tokens behind the prompt."""

    lens: LensStage | None
    """The same at every layer; None where it was not asked for."""
