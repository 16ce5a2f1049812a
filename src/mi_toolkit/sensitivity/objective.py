"""What a score is the gradient of: by default the mean next-token loss over all tokens.

An objective gives one value per text; the objective of a set is their mean, weighted by each text's
share. The loss weighs every token the same, so a text's share is its share of the tokens; under any
other objective every text counts once. Padding has no part in any value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.errors import WeightError, unknown_name
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.hooked_pass import check_finite_pass
from mi_toolkit.prompts.tokens import TokenBatch

Objective = Callable[[Tensor, TokenBatch], Tensor]
"""`(logits ["sequence position d_vocab"], batch) -> ["sequence"]`: one value per text."""


def next_tokens(batch: TokenBatch) -> Int[Tensor, "sequence position"]:
    """The token that each position predicts; -100 at a text's last token and in its padding."""
    targets = torch.full_like(batch.ids, -100)
    targets[:, :-1] = batch.ids[:, 1:]
    last = torch.arange(batch.ids.shape[1]) >= batch.lengths[:, None] - 1
    return targets.masked_fill(last, -100)


def token_losses(
    logits: Float[Tensor, "sequence position d_vocab"], targets: Int[Tensor, "sequence position"]
) -> Float[Tensor, "sequence position"]:
    """Negative log likelihood of each target in nats; 0 where there is none."""
    flat = F.cross_entropy(
        logits.float().flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="none"
    )
    return flat.view(targets.shape)


def loss(
    logits: Float[Tensor, "sequence position d_vocab"], batch: TokenBatch
) -> Float[Tensor, " sequence"]:
    """The mean next-token loss of each text, in nats per token."""
    losses = token_losses(logits, next_tokens(batch).to(logits.device))
    return losses.sum(dim=1) / (batch.lengths - 1).to(losses.device)


OBJECTIVES = {"loss": loss}


def objective_named(objective: str | Objective) -> Objective:
    """The function behind a name; a function is taken as it is.

    Raises:
        UnknownNameError: nothing is called so.
    """
    if not isinstance(objective, str):
        return objective
    if objective not in OBJECTIVES:
        raise unknown_name("objective", objective, OBJECTIVES)
    return OBJECTIVES[objective]


def shares(objective: Objective, batch: TokenBatch) -> Float[Tensor, " sequence"]:
    """How much each text counts; they add up to 1."""
    counts = batch.lengths - 1 if objective is loss else torch.ones(len(batch))
    return counts.double() / counts.sum()


def values(model: HookedModel, objective: Objective, batch: TokenBatch) -> Float[Tensor, " text"]:
    """The objective of each text of a batch, from one forward pass.

    Raises:
        WeightError: the objective did not give one number per text.
    """
    of_texts: Any = objective(run(model, batch), batch)
    if not isinstance(of_texts, Tensor) or of_texts.shape != (len(batch),):
        raise WeightError(
            f"An objective gives one value per text, a tensor of shape [{len(batch)}] here; this "
            f"one gave {list(of_texts.shape) if isinstance(of_texts, Tensor) else type(of_texts)}."
        )
    return of_texts


def run(model: HookedModel, batch: TokenBatch) -> Float[Tensor, "sequence position d_vocab"]:
    """The logits of a batch. Padding stands behind the text, where no token of it looks.

    Raises:
        NotFiniteError: they are NaN or infinite.
    """
    ids = batch.ids.to(model.cfg.device)
    if ids.is_inference():  # the caller's own: no backward pass could keep them
        ids = ids.clone()
    logits: Tensor = model(ids, return_type="logits", attention_mask=torch.ones_like(ids))
    check_finite_pass(model, ids, logits)
    return logits
