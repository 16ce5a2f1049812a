"""Pairs of prompts, clean and corrupted, and the logit that tells them apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_toolkit.errors import PromptError
from mi_toolkit.hooked_model import HookedModel, evaluating, uncached
from mi_toolkit.hooked_pass import check_finite_pass
from mi_toolkit.predictions import token_id
from mi_toolkit.prompts.token_texts import token_texts
from mi_toolkit.prompts.tokens import Prompt, TokenBatch, tokenise

Token = int | str
Tokens = Token | Sequence[Token]
"""One token for every pair, or one for each."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """Prompts of one length, two and two, and what is asked behind them."""

    clean: TokenBatch
    """What the answer is right for."""

    corrupted: TokenBatch
    """The same prompts, changed in what the answer hangs on."""

    target: Int[Tensor, " pair"]
    """The token whose logit is read behind each pair."""

    other: Int[Tensor, " pair"] | None
    """The token whose logit is taken off it, if any."""

    @staticmethod
    def of(
        model: HookedModel, clean: Prompt, corrupted: Prompt, target: Tokens, other: Tokens | None
    ) -> Pairs:
        """The pairs, checked.

        Raises:
            PromptError: prompts of different numbers or lengths, or a token that is not one.
        """
        ours, theirs = tokenise(model, clean), tokenise(model, corrupted)
        if len(ours) != len(theirs):
            raise PromptError(
                f"{len(ours)} clean and {len(theirs)} corrupted prompts are no pairs: give as many "
                "of one as of the other."
            )
        lengths = {*ours.lengths.tolist(), *theirs.lengths.tolist()}
        if len(lengths) > 1:
            told = ", ".join(
                f"{a} and {b}"
                for a, b in zip(ours.lengths.tolist(), theirs.lengths.tolist(), strict=True)
            )
            raise PromptError(
                "Patching puts activations of one prompt into another, position by position, so "
                f"all prompts must have one length in tokens; these have {told}."
            )
        n = len(ours)
        return Pairs(
            clean=ours,
            corrupted=theirs,
            target=_ids(model, target, n),
            other=None if other is None else _ids(model, other, n),
        )

    def metric(self, logits: Float[Tensor, "pair position d_vocab"]) -> Float[Tensor, ""]:
        """The mean over pairs of the target's logit behind the prompt, less the other's."""
        last, rows = logits[:, -1].float(), torch.arange(len(logits))
        read = last[rows, self.target]
        return (read if self.other is None else read - last[rows, self.other]).mean()

    def one(self, index: int) -> Pairs:
        """One of the pairs alone."""
        return Pairs(
            clean=self.clean.part(index, index + 1),
            corrupted=self.corrupted.part(index, index + 1),
            target=self.target[index : index + 1],
            other=None if self.other is None else self.other[index : index + 1],
        )

    def both_metrics(self, model: HookedModel) -> tuple[float, float]:
        """The metric of the clean run and of the corrupted one.

        Raises:
            PromptError: they are equal, so there is nothing to carry over.
            NotFiniteError: the logits are NaN or infinite.
        """
        found = []
        with evaluating(model), torch.no_grad():
            for batch in (self.clean, self.corrupted):
                ids = batch.ids.to(model.cfg.device)
                logits = model(ids, **uncached(model))
                check_finite_pass(model, ids, logits)
                found.append(float(self.metric(logits)))
        if found[0] == found[1]:
            raise PromptError(
                "The clean and the corrupted prompts give the same logits for "
                f"{self.in_words(model)}, so there is no difference to carry over."
            )
        return found[0], found[1]

    def in_words(self, model: HookedModel) -> str:
        """What is read: the target, or the target against the other."""
        targets = token_texts(model.tokenizer, sorted(set(self.target.tolist())))
        named = ", ".join(map(repr, targets))
        if self.other is None:
            return f"logit of {named}"
        others = token_texts(model.tokenizer, sorted(set(self.other.tolist())))
        return f"logit of {named} less that of {', '.join(map(repr, others))}"

    def positions(self, model: HookedModel) -> tuple[str, ...]:
        """Each position's token in the first pair, both where they differ."""
        ours, theirs = (
            token_texts(model.tokenizer, batch.ids[0].tolist())
            for batch in (self.clean, self.corrupted)
        )
        return tuple(a if a == b else f"{a} /{b}" for a, b in zip(ours, theirs, strict=True))


def _ids(model: HookedModel, tokens: Tokens, n_pairs: int) -> Tensor:
    named = [tokens] * n_pairs if isinstance(tokens, int | str) else list(tokens)
    if len(named) != n_pairs:
        raise PromptError(f"{len(named)} tokens for {n_pairs} pairs: give one, or one for each.")
    return torch.tensor([token_id(model, token) for token in named])
