"""What both ways of confirming share: arguments, checked, and the trial that comes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mi_toolkit.errors import PromptError
from mi_toolkit.heads.head import Head
from mi_toolkit.heads.provenance import provenance_of
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.interventions.ablation.kinds import check_kind
from mi_toolkit.interventions.confirm.claims import Claim
from mi_toolkit.interventions.confirm.confirmation import Trial
from mi_toolkit.interventions.confirm.effect import effect_of
from mi_toolkit.interventions.confirm.losses import HeadSet, LossRuns
from mi_toolkit.prompts.tokens import Prompt, TokenBatch, tokenise
from mi_toolkit.provenance import Provenance

DEFAULT_SEQUENCES = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Setting:
    """How the heads are ablated and the figures made."""

    model: HookedModel
    how: str
    reference: TokenBatch | None
    rows: int | None
    seed: int

    @staticmethod
    def of(
        model: HookedModel,
        *,
        how: str,
        reference: Prompt | TokenBatch | None,
        n_random: int | None,
        n_sequences: int | None,
        batch_size: int | None,
        seed: int,
    ) -> Setting:
        """The setting, checked.

        Raises:
            UnknownNameError: no such kind of ablation.
            PromptError: a count under 1, or a reference that cannot be fed.
        """
        check_kind(how)
        counts = {"n_random": n_random, "n_sequences": n_sequences, "batch_size": batch_size}
        for name, count in counts.items():
            if count is not None and count < 1:
                raise PromptError(f"{name} counts something: 1 or more, not {count}.")
        if reference is not None and not isinstance(reference, TokenBatch):
            reference = tokenise(model, reference)
        return Setting(model=model, how=how, reference=reference, rows=batch_size, seed=seed)

    def runs(self, sets: Sequence[HeadSet], batch: TokenBatch, queries: Tensor) -> LossRuns:
        """The sets' runs on a stimulus."""
        return LossRuns(
            self.model,
            sets,
            batch,
            queries,
            how=self.how,
            reference=self.reference,
            rows=self.rows,
        )

    def trial(
        self,
        claim: Claim,
        heads: HeadSet,
        losses: Float[Tensor, "set query"],
        random_sets: Sequence[HeadSet],
        *,
        are_all: bool,
        crowded: tuple[int, ...] = (),
        rank_in_layer: tuple[int, int] | None = None,
    ) -> Trial:
        """A trial, still to be judged, from the losses of the clean run, the set and the others."""
        sequence = claim.queries.nonzero()[:, 0]
        clean, changes = losses[0], losses[1:] - losses[0]
        effect = effect_of(changes, sequence, direction=claim.direction, seed=self.seed)
        weight = 1 / claim.queries.sum(dim=1)[sequence]
        return Trial(
            label=claim.label,
            heads=heads,
            stimulus=claim.stimulus,
            n_sequences=len(claim.batch),
            n_queries=len(sequence),
            clean_loss=float((clean * weight).sum() / weight.sum()),
            effect=effect,
            random_sets=tuple(random_sets),
            are_all=are_all,
            crowded=crowded,
            rank_in_layer=rank_in_layer,
            q=1.0,
            verdict="undecided",
            reason="",
        )

    def reference_in_words(self) -> str:
        """What the kind of ablation takes its values from."""
        if self.how in ("zero", "pattern_preserving"):
            return "nothing" if self.how == "zero" else "the clean run on the same sequence"
        if self.reference is not None:
            return f"a reference of {len(self.reference)} sequences ({self.reference.digest[:12]})"
        return "natural text" if self.how == "mean" else "another sequence of the stimulus"

    def provenance(self, claims: Sequence[Claim]) -> Provenance:
        """Model, stimuli and versions."""
        batches = {claim.stimulus: claim.batch for claim in claims}
        return provenance_of(self.model, batches, seed=self.seed)


def generator(seed: int) -> torch.Generator:
    """A local generator."""
    return torch.Generator().manual_seed(seed)


def every_head(model: HookedModel, layers: Sequence[int]) -> list[Head]:
    """All heads of the layers."""
    return [Head(layer, head) for layer in layers for head in range(int(model.cfg.n_heads))]
