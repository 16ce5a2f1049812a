"""Three prompts that anybody can judge the answer to, and figures on what comes behind them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mi_toolkit.generation.generate import generate
from mi_toolkit.hooked_model import HookedModel, evaluating
from mi_toolkit.prompts.tokens import tokenise
from mi_toolkit.verification.outcome import Outcome, at_most, not_applicable

if TYPE_CHECKING:
    from mi_toolkit.verification.subject import Subject

PROMPTS = ("The capital of France is", "2 + 2 =", "Count to 5:")
MOST_OF_CHANCE = 0.5
MOST_REPEATED = 0.9


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What a model goes on with, taking the most probable token each time."""

    prompt: str
    """The prompt."""

    text: str
    """What follows."""

    loss: float
    """Mean negative log-probability of the tokens that follow, in nats: how unsure it was."""

    prompt_loss: float
    """The same of the prompt's own tokens: how much the model expected them. In nats."""

    repetition: float
    """The share of runs of three tokens that were there before, in [0, 1]."""


def repetition(ids: Sequence[int], run: int = 3) -> float:
    """The share of runs of tokens that repeat an earlier one; 0 where there are too few.

    >>> repetition([1, 2, 3, 1, 2, 3, 1])
    0.4
    """
    runs = [tuple(ids[start : start + run]) for start in range(len(ids) - run + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def complete(model: HookedModel, prompt: str, max_new_tokens: int) -> Completion:
    """A greedy completion with its figures; it stops where the model ends its text."""
    ids = tokenise(model, prompt).ids.to(model.cfg.device)
    room = min(max_new_tokens, int(model.cfg.n_ctx) - ids.shape[1])
    said = generate(model, prompt, max_new_tokens=room, top_k=1).sequences[0]
    with evaluating(model), torch.no_grad():
        logits = model(ids, return_type="logits", attention_mask=torch.ones_like(ids))
    log_probs = logits[0, :-1].float().log_softmax(dim=-1)
    return Completion(
        prompt=prompt,
        text=said.text,
        loss=float(-said.log_probs.mean()),
        prompt_loss=float(-log_probs.gather(-1, ids[0, 1:, None]).mean()),
        repetition=repetition(said.ids.tolist()),
    )


_WORDLESS = not_applicable(
    "The model has no tokenizer to write with: give its folder one (`tokenizer.save_pretrained`)."
)


def coherence_loss(subject: Subject) -> Outcome:
    """Whether the model is surer of what it writes than a model that knows nothing."""
    if not subject.completions:
        return _WORDLESS
    chance = math.log(subject.facts.d_vocab)
    mean = sum(each.loss for each in subject.completions) / len(subject.completions)
    return at_most(
        MOST_OF_CHANCE * chance,
        mean,
        f"Mean loss of the three completions in nats; knowing nothing costs {chance:.2f}, and the "
        "limit is half of it.",
    )


def coherence_repetition(subject: Subject) -> Outcome:
    """Whether the model says more than one thing over and over."""
    if not subject.completions:
        return _WORDLESS
    mean = sum(each.repetition for each in subject.completions) / len(subject.completions)
    return at_most(
        MOST_REPEATED,
        mean,
        "Mean share of runs of three tokens, in the three completions, that were there before.",
    )
