"""What a model predicts as its next token: which token, how probable, at which rank.

The figures are pure functions of logits. Tokens are ids throughout: as texts, " Paris" and "Paris"
are told apart by a space alone.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, SupportsIndex

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.core.errors import PromptError
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.tokenizer import SENTENCEPIECE_SPACE, token_texts
from mi_toolkit.core.vocabulary import require_tokenizer

if TYPE_CHECKING:
    Token = SupportsIndex | str
else:
    Token = Any  # what is neither is refused by `token_id`
"""A token: its id, as any whole number (numpy's, a tensor's), or its exact text."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """How a model rates one token as the next one."""

    token: int
    """The token's id."""

    text: str
    """The token's text, leading space included."""

    logit: float
    """The model's raw figure for it."""

    log_prob: float
    """Log-probability, in nats."""

    rank: int
    """1 for the most probable token; tokens that tie share the better rank."""

    @property
    def probability(self) -> float:
        """Probability of the token, in [0, 1]."""
        return math.exp(self.log_prob)

    def __str__(self) -> str:
        return f"{self.text!r} {self.probability:.1%}"


def token_id(model: HookedModel, token: Token) -> int:
    """The id of one token, given as that or as its exact text: " Paris" is not "Paris".

    Raises:
        PromptError: an id outside the vocabulary, a text that is not one single token, or neither.
    """
    name, vocabulary = model.cfg.model_name, int(model.cfg.d_vocab)
    if not isinstance(token, str):
        try:
            found = operator.index(token)
        except (TypeError, ValueError, RuntimeError) as error:
            raise PromptError(
                f"A token is its id or its exact text, such as ' Paris', not {token!r}."
            ) from error
        if not 0 <= found < vocabulary:
            raise PromptError(
                f"Token id {found} is outside the vocabulary of {name}: 0 to {vocabulary - 1}."
            )
        return found
    tokenizer = require_tokenizer(model, repr(token))
    single = _single(tokenizer, token)
    if single is None:
        raise PromptError(f"{token!r} is not one token of {name}, {_pieces(tokenizer, token)}")
    return single


def ranks_in_order(descending: Sequence[float]) -> list[int]:
    """The rank of each of some figures that come in descending order; ties share the better one.

    >>> ranks_in_order([0.5, 0.2, 0.2, 0.1])
    [1, 2, 2, 4]
    """
    return [descending.index(figure) + 1 for figure in descending]


def token_ranks(
    logits: Float[Tensor, "*batch vocabulary"], tokens: Int[Tensor, "*batch"]
) -> Int[Tensor, "*batch"]:
    """The rank of each token in its row: 1 for the greatest logit, and the better rank in a tie."""
    own = logits.gather(-1, tokens[..., None])
    return (logits > own).sum(dim=-1) + 1


def most_probable(logits: Float[Tensor, "*batch vocabulary"], k: int) -> Int[Tensor, "*batch k"]:
    """The ids of the `k` greatest logits of each row, best first; of a tie, the smaller ids first.

    In bfloat16 many logits are equal, and `Tensor.topk` has these in any order.

    >>> most_probable(torch.tensor([1.0, 3.0, 3.0, 2.0, 3.0]), 2)
    tensor([1, 2])
    """
    values, ids = logits.topk(k, dim=-1)
    at_the_end = (logits >= values[..., -1:]).sum(dim=-1) > k
    if at_the_end.any():  # which of the equal ones are among them is not said
        ids[at_the_end] = logits[at_the_end].sort(dim=-1, descending=True, stable=True)[1][..., :k]
    ids = ids.sort(dim=-1).values
    order = logits.gather(-1, ids).sort(dim=-1, descending=True, stable=True).indices
    return ids.gather(-1, order)


def kl_divergence(
    logits: Float[Tensor, "*#batch vocabulary"], others: Float[Tensor, "*#batch vocabulary"]
) -> Float[Tensor, "*batch"]:
    """KL(softmax(logits) ‖ softmax(others)) in nats: 0 where both predict alike.

    Of a clean and a changed model, `logits` are the clean one's; either may stand for several rows.
    """
    # In float32, predictions that hardly differ would come out below 0, by rounding.
    return divergence(*(each.double().log_softmax(dim=-1) for each in (logits, others)))


def divergence(
    ours: Float[Tensor, "*#batch vocabulary"], theirs: Float[Tensor, "*#batch vocabulary"]
) -> Float[Tensor, "*batch"]:
    """KL(ours ‖ theirs) in nats, of log-probabilities; either may stand for several rows."""
    return (ours.exp() * (ours - theirs)).sum(dim=-1, dtype=torch.float64).float()


def predictions(
    tokenizer: Any, logits: Float[Tensor, " vocabulary"], tokens: Int[Tensor, " token"]
) -> tuple[Prediction, ...]:
    """How these logits rate each of the tokens, in the order given."""
    log_probs = logits.float().log_softmax(dim=-1)[tokens]
    ranks = token_ranks(logits.expand(len(tokens), -1), tokens)
    ids = tokens.tolist()
    texts = token_texts(tokenizer, ids)
    figures = zip(logits[tokens].tolist(), log_probs.tolist(), ranks.tolist(), strict=True)
    return tuple(
        Prediction(token=token, text=text, logit=logit, log_prob=log_prob, rank=rank)
        for token, text, (logit, log_prob, rank) in zip(ids, texts, figures, strict=True)
    )


def top_predictions(
    tokenizer: Any, logits: Float[Tensor, " vocabulary"], k: int
) -> tuple[Prediction, ...]:
    """The `k` most probable tokens, best first; of a tie, the smaller ids first."""
    if not 1 <= k <= len(logits):
        raise PromptError(f"k={k}: between 1 and {len(logits)}, the vocabulary, can be shown.")
    return predictions(tokenizer, logits, most_probable(logits, k))


def _single(tokenizer: Any, text: str) -> int | None:
    """The one token of exactly this text, None where there is none.

    A SentencePiece tokenizer puts a space before whatever it reads, so what it reads is checked
    against what it writes, and a token that begins no word is looked up by its name.
    """
    spellings = (text, text.removeprefix(" "))
    readings = [tokenizer.encode(each, add_special_tokens=False) for each in spellings]
    named = tokenizer.get_vocab().get(text.replace(" ", SENTENCEPIECE_SPACE))
    candidates = [ids[0] for ids in readings if len(ids) == 1] + [named]
    for token in candidates:
        if token is not None and token_texts(tokenizer, [token]) == (text,):
            return int(token)
    return None


def _pieces(tokenizer: Any, text: str) -> str:
    """What the text falls into, and whether it is one token with or without a leading space."""
    pieces = token_texts(tokenizer, tokenizer.encode(text, add_special_tokens=False))
    parts = ", ".join(map(repr, pieces)) or "nothing"
    other = text.removeprefix(" ") if text.startswith(" ") else f" {text}"
    hint = "" if _single(tokenizer, other) is None else f" {other!r} is one."
    return f"but {len(pieces)}: {parts}.{hint} Give a single token, by its exact text or its id."
