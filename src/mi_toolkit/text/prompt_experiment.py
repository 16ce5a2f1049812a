"""The experiment on one prompt: a prediction with something done to the model, and without.

1. The prompt's own ids run: as the model is, under the intervention on what was chosen, and under
   the same on random sets to set next to it. One token is asked about after them.
2. What is generated after the prompt, before and under the intervention, is reported apart: from
   the first token that differs on, the two go on from different texts.

What is done to the model is the argument: components ablated, weights changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from typing import Protocol, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from mi_toolkit.core.errors import PromptError
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.predictions import (
    Prediction,
    Token,
    kl_divergence,
    predictions,
    token_id,
    token_ranks,
    top_predictions,
)
from mi_toolkit.core.progress import track
from mi_toolkit.core.provenance import Provenance
from mi_toolkit.core.tokens import TokenBatch
from mi_toolkit.models.describe import provenance_of
from mi_toolkit.text.generate import generate
from mi_toolkit.text.generation import GeneratedSequence


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PromptEffect:
    """One prompt and one target token, with something done to the model and without."""

    before: Prediction
    """The target after the prompt, with nothing done."""

    after: Prediction
    """The target under the intervention."""

    top_before: tuple[Prediction, ...]
    """The most probable tokens with nothing done, best first."""

    top_after: tuple[Prediction, ...]
    """The most probable tokens under the intervention, best first."""

    provenance: Provenance
    """Model, prompt and versions."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Readings:
    """The figures of one run or of several."""

    log_prob: Float[Tensor, "*run"]
    """Log-probability of the target after the last token, in nats."""

    logit: Float[Tensor, "*run"]
    """Logit of the target."""

    rank: Float[Tensor, "*run"]
    """Rank of the target: 1 for the most probable token."""

    kl: Float[Tensor, "*run"]
    """KL divergence of the prediction after the last token from the clean one, in nats."""

    loss: Float[Tensor, "*run"]
    """Mean cross-entropy of the sequence's own tokens, each after those before it, in nats; NaN
    for a sequence of one token."""

    def in_order(self, places: Sequence[int]) -> Readings:
        """The same runs, each put where `places` says that it belongs."""
        order = torch.tensor(places, dtype=torch.long).argsort()
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
        target: the token that is asked about after the last one.
    """
    last = logits[:, -1].float()
    asked = torch.full((len(last),), target, device=last.device)
    figures = Readings(
        log_prob=last.log_softmax(dim=-1)[:, target],
        logit=last[:, target],
        rank=token_ranks(last, asked).float(),
        kl=kl_divergence(clean[-1:], last),
        loss=losses(logits, ids).mean(dim=-1),
    )
    return Readings(**{f.name: getattr(figures, f.name).cpu() for f in fields(Readings)})


def losses(
    logits: Float[Tensor, "run position d_vocab"], ids: Int[Tensor, " position"]
) -> Float[Tensor, "run position-1"]:
    """Cross-entropy of each token after those before it."""
    following = ids[1:].to(logits.device)
    # Run by run: the softmax of all of them would take as much memory as the logits again.
    runs = [cross_entropy(run[:-1].float(), following, reduction="none") for run in logits]
    return torch.stack(runs)


def joined(parts: Sequence[Readings]) -> Readings:
    """The figures of several groups of runs, one after the other."""
    return Readings(
        **{
            f.name: torch.cat([torch.zeros(0), *(getattr(part, f.name) for part in parts)])
            for f in fields(Readings)
        }
    )


Part = TypeVar("Part", contravariant=True)


class Intervention(Protocol[Part]):
    """Something that can be done to sets of a model's parts while one sequence runs."""

    @property
    def clean(self) -> Float[Tensor, "position d_vocab"]:
        """The logits with nothing done."""
        ...

    def applied(self, chosen: tuple[Part, ...]) -> AbstractContextManager[object]:
        """The model with it done to one set."""
        ...

    def n_passes(self, sets: Sequence[tuple[Part, ...]]) -> int:
        """How many passes the sets take."""
        ...

    def passes(
        self, sets: Sequence[tuple[Part, ...]]
    ) -> Iterator[tuple[list[int], Float[Tensor, "set position d_vocab"]]]:
        """Which sets ran together, and their logits, pass by pass."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What an intervention did on one prompt."""

    effect: PromptEffect
    """The target before and after."""

    clean: Float[Tensor, "position d_vocab"]
    """The logits with nothing done, on the CPU in float32."""

    changed: Float[Tensor, "position d_vocab"]
    """The logits under the intervention."""

    own: Readings
    """The figures of the clean run."""

    controls: Readings
    """The figures under the intervention on each random set."""

    written: tuple[GeneratedSequence, GeneratedSequence] | None
    """What was generated after the prompt, before and under the intervention."""


def experiment(
    model: HookedModel,
    batch: TokenBatch,
    intervention: Intervention[Part],
    chosen: tuple[Part, ...],
    controls: Sequence[tuple[Part, ...]],
    *,
    target: Token | None,
    top_k: int,
    max_new_tokens: int,
    num_beams: int = 1,
    seed: int,
    label: str,
    progress: bool | None,
) -> Outcome:
    """Run a prompt with something done to chosen parts, to random ones, and to none.

    Args:
        model: the model; it is left as it was.
        batch: the prompt.
        intervention: what is done.
        chosen: the parts that it is done to; nothing changes where there are none.
        controls: random sets of parts.
        target: the token to ask about; None for the most probable of the clean run.
        top_k: how many of the most probable tokens are kept.
        max_new_tokens: tokens to generate after the prompt; 0 for none.
        num_beams: beams to generate them with.
        seed: for the provenance.
        label: what a progress bar says of the random sets.
        progress: a progress bar; None: where somebody looks and it takes long.

    Raises:
        PromptError: a target that is not one token.
    """
    ids, clean = batch.sequence(0), intervention.clean
    asked = int(clean[-1].argmax()) if target is None else token_id(model, target)
    written = _written(model, batch, intervention, chosen, max_new_tokens, num_beams)
    changed = next(intervention.passes([chosen]))[1][0] if chosen else clean
    places, beside = [], []
    for indices, logits in track(
        intervention.passes(controls),
        total=intervention.n_passes(controls),
        label=label,
        unit="pass",
        show=progress,
        at_rest=model,
    ):
        places += indices
        beside.append(readings(logits, clean, ids, asked))
    before, after = clean.float().cpu(), changed.float().cpu()
    tokenizer, token = model.tokenizer, torch.tensor([asked])
    return Outcome(
        effect=PromptEffect(
            before=predictions(tokenizer, before[-1], token)[0],
            after=predictions(tokenizer, after[-1], token)[0],
            top_before=top_predictions(tokenizer, before[-1], top_k),
            top_after=top_predictions(tokenizer, after[-1], top_k),
            provenance=provenance_of(model, {"prompt": batch}, seed=seed),
        ),
        clean=before,
        changed=after,
        own=readings(clean[None], clean, ids, asked),
        controls=joined(beside).in_order(places),
        written=written,
    )


def _written(
    model: HookedModel,
    batch: TokenBatch,
    intervention: Intervention[Part],
    chosen: tuple[Part, ...],
    max_new_tokens: int,
    num_beams: int,
) -> tuple[GeneratedSequence, GeneratedSequence] | None:
    """What is generated after the prompt, with nothing done and under the intervention."""
    if not max_new_tokens:
        return None

    def best() -> GeneratedSequence:
        found = generate(model, batch, max_new_tokens=max_new_tokens, num_beams=num_beams)
        return found.sequences[0]

    before = best()
    with intervention.applied(chosen) if chosen else nullcontext():
        return before, best()


def check_n_random(n_random: int) -> None:
    """Check how many random sets are asked for.

    Raises:
        PromptError: fewer than none.
    """
    if n_random < 0:
        raise PromptError(f"n_random counts random sets: 0 or more, not {n_random}.")
