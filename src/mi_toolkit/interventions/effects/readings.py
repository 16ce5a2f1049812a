"""What a model makes of one sequence: five figures, as pure functions of its logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from mi_toolkit.predictions import kl_divergence, token_ranks


@dataclass(frozen=True, kw_only=True, eq=False)
class Readings:
    """The figures of one run or of several."""

    log_prob: Float[Tensor, "*run"]
    """Log-probability of the target behind the last token, in nats."""

    logit: Float[Tensor, "*run"]
    """Its logit."""

    rank: Float[Tensor, "*run"]
    """Its rank: 1 for the most probable token."""

    kl: Float[Tensor, "*run"]
    """KL divergence of the prediction behind the last token from the clean one, in nats."""

    loss: Float[Tensor, "*run"]
    """Mean cross-entropy of the sequence's own tokens, each behind those before it, in nats; NaN
    for a sequence of one token."""

    def in_order(self, places: Sequence[int]) -> Readings:
        """The same runs, each put where `places` says that it belongs."""
        order = torch.tensor(places).argsort()
        return Readings(**{f.name: getattr(self, f.name)[order] for f in fields(Readings)})


def readings(
    logits: Float[Tensor, "run position d_vocab"],
    clean: Float[Tensor, "position d_vocab"],
    ids: Int[Tensor, " position"],
    target: int,
) -> Readings:
    """The figures of each run, on the CPU.

    Args:
        logits: of runs of one sequence.
        clean: the logits of its clean run.
        ids: the sequence.
        target: the token that is asked about behind the last one.
    """
    last = logits[:, -1].float()
    asked = torch.full((len(last),), target, device=last.device)
    figures = Readings(
        log_prob=last.log_softmax(dim=-1)[:, target],
        logit=last[:, target],
        rank=token_ranks(last, asked).float(),
        kl=kl_divergence(clean[-1].float().expand_as(last), last),
        loss=losses(logits, ids).mean(dim=-1),
    )
    return Readings(**{f.name: getattr(figures, f.name).cpu() for f in fields(Readings)})


def losses(
    logits: Float[Tensor, "run position d_vocab"], ids: Int[Tensor, " position"]
) -> Float[Tensor, "run position-1"]:
    """Cross-entropy of each token behind those before it."""
    following = ids[1:].to(logits.device)
    # Run by run: the softmax of all of them would take as much memory as the logits again.
    runs = [cross_entropy(run[:-1].float(), following, reduction="none") for run in logits]
    return torch.stack(runs)


def joined(parts: Sequence[Readings]) -> Readings:
    """The figures of several groups of runs, one after the other."""
    return Readings(
        **{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Readings)}
    )
