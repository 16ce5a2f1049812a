"""`confirm_each_head`: every labelled head ablated alone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mi_toolkit.heads.head import Head
from mi_toolkit.hooked_model import HookedModel, attention_layers
from mi_toolkit.interventions.confirm.claims import Claim, Labelled, claims_of
from mi_toolkit.interventions.confirm.confirmation import Confirmation, Trial
from mi_toolkit.interventions.confirm.losses import LossRuns
from mi_toolkit.interventions.confirm.measure import measure
from mi_toolkit.interventions.confirm.setting import (
    DEFAULT_SEQUENCES,
    Setting,
    every_head,
    generator,
)
from mi_toolkit.interventions.confirm.verdict import DEFAULT_ALPHA, judged
from mi_toolkit.prompts.tokens import Prompt, TokenBatch


def confirm_each_head(
    model: HookedModel,
    report: Labelled,
    *,
    labels: Sequence[str] | None = None,
    stimulus: Prompt | None = None,
    how: str = "mean",
    reference: Prompt | TokenBatch | None = None,
    n_random: int | None = None,
    n_sequences: int | None = DEFAULT_SEQUENCES,
    alpha: float = DEFAULT_ALPHA,
    batch_size: int | None = None,
    seed: int = 0,
    resume: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> Confirmation:
    """Whether each labelled head alone matters for what its label says, more than other heads do.

    As `confirm_heads`, one head at a time. It is set beside the model's heads without the label,
    in all layers: one layer has too few heads for a percentile, so beside its own layer it has a
    rank (`rank_in_layer`). Early heads weigh more than late ones whatever they do; read both.

    A head may fail where its set survives: heads of one label stand in for each other.

    Args:
        model: the model of the report; it is left as it was.
        report: of `classify_heads`; or heads by behaviour.
        labels: only these; None for all that a head carries.
        stimulus: as in `confirm_heads`.
        how: the kind of ablation.
        reference: what `mean` and `resample` take from.
        n_random: how many of the other heads to draw; None for all of them, which several labels
            share: each head of the model is ablated once per stimulus.
        n_sequences: at most so many sequences of the stimulus; None for all.
        alpha: the false discovery rate, over all heads and labels tested, up to which one survives.
        batch_size: heads to a pass.
        seed: of the draw, the bootstrap, and a stimulus that the report does not hold.
        resume: a folder that keeps losses as they come.
        progress: a progress bar; None: where somebody looks and it takes long.

    Raises:
        UnknownNameError, ReportError, PromptError, HookError: as `confirm_heads`.

    Example:
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> found = mi.confirm_each_head(model, {"induction": ["L2H0", "L2H3"]}, n_sequences=8)
        >>> [(*trial.heads, trial.rank_in_layer) for trial in found["induction"]]
        [(L2H0, (1, 4)), (L2H3, ...)]
    """
    setting = Setting.of(
        model,
        how=how,
        reference=reference,
        n_random=n_random,
        n_sequences=n_sequences,
        batch_size=batch_size,
        seed=seed,
    )
    claims, untested = claims_of(
        model, report, labels=labels, stimulus=stimulus, n_sequences=n_sequences, seed=seed
    )
    shared = [_Shared.of(setting, together, n_random) for together in _by_batch(claims)]
    measure([group.run for group in shared], resume=resume, progress=progress)
    pairs = [pair for group in shared for pair in group.trials(setting)]
    order = {claim.label: place for place, claim in enumerate(claims)}
    pairs.sort(key=lambda pair: (order[pair[1].label], -pair[1].direction * pair[0].effect.change))
    trials, of_trials = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return Confirmation(
        trials=judged(trials, of_trials, alpha),
        untested=untested,
        by="head",
        how=how,
        alpha=alpha,
        n_random=n_random,
        reference=setting.reference_in_words(),
        provenance=setting.provenance(claims),
    )


def _by_batch(claims: Sequence[Claim]) -> list[list[Claim]]:
    groups: dict[tuple[str, str], list[Claim]] = {}
    for claim in claims:
        groups.setdefault((claim.stimulus, claim.batch.digest), []).append(claim)
    return list(groups.values())


@dataclass(frozen=True, kw_only=True, eq=False)
class _Shared:
    """The single heads that the claims on one batch need, each ablated once."""

    claims: Sequence[Claim]
    others: Mapping[str, list[Head]]
    """Per label the heads to stand beside."""

    run: LossRuns
    place: Mapping[Head, int]
    """Where each head's losses are; the clean run's come first."""

    are_all: bool

    @staticmethod
    def of(setting: Setting, claims: Sequence[Claim], n_random: int | None) -> _Shared:
        model = setting.model
        every = every_head(model, attention_layers(model))
        others: dict[str, list[Head]] = {}
        needed: set[Head] = set()
        for claim in claims:
            unlabelled = [head for head in every if head not in claim.heads]
            order = torch.randperm(len(unlabelled), generator=generator(setting.seed))
            others[claim.label] = sorted(unlabelled[i] for i in order[:n_random].tolist())
            beside = every_head(model, sorted({head.layer for head in claim.heads}))
            needed |= {*claim.heads, *others[claim.label], *beside}
        heads = sorted(needed)
        queries = torch.stack([claim.queries for claim in claims]).any(dim=0)
        return _Shared(
            claims=claims,
            others=others,
            run=setting.runs([(), *((head,) for head in heads)], claims[0].batch, queries),
            place={head: index for index, head in enumerate(heads, start=1)},
            are_all=n_random is None,
        )

    def trials(self, setting: Setting) -> list[tuple[Trial, Claim]]:
        found = []
        for claim in self.claims:
            # The run holds the predictions of all claims; these are the claim's own.
            losses = self.run.losses[:, claim.queries[self.run.queries]]
            beside = self.others[claim.label]
            for head in claim.heads:
                places = [0, self.place[head], *(self.place[other] for other in beside)]
                trial = setting.trial(
                    claim,
                    (head,),
                    losses[places],
                    [(other,) for other in beside],
                    are_all=self.are_all,
                    rank_in_layer=self._rank(setting, head, losses, claim),
                )
                found.append((trial, claim))
        return found

    def _rank(self, setting: Setting, head: Head, losses: Tensor, claim: Claim) -> tuple[int, int]:
        layer = every_head(setting.model, [head.layer])
        weight = 1 / claim.queries.sum(dim=1)[claim.queries.nonzero()[:, 0]]
        means = claim.direction * (losses * weight).sum(dim=1)
        own = means[self.place[head]]
        n_above = sum(bool(means[self.place[other]] > own) for other in layer)
        return n_above + 1, len(layer)
