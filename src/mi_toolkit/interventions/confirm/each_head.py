"""`confirm_each_head`: every labelled head ablated alone."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from mi_toolkit.heads.head import Head
from mi_toolkit.hooked_model import HookedModel, attention_layers
from mi_toolkit.interventions.confirm.claims import Claim, Labelled, claims_of, fresh_seed
from mi_toolkit.interventions.confirm.confirmation import Confirmation
from mi_toolkit.interventions.confirm.effect import PairedChanges
from mi_toolkit.interventions.confirm.losses import measure
from mi_toolkit.interventions.confirm.setting import (
    DEFAULT_ALPHA,
    DEFAULT_SEQUENCES,
    LossTable,
    Setting,
    every_head,
    judged,
    sequence_of_query,
)
from mi_toolkit.process_state import one_job
from mi_toolkit.prompts.tokens import Prompt, TokenBatch


@one_job
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
    seed: int | None = None,
    resume: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> Confirmation:
    """Whether each labelled head alone matters for what its label says, more than other heads do.

    As `confirm_heads`, one head at a time. It is ranked among the model's heads without the label,
    in all layers: one layer has too few heads for a percentile, so in its own layer it has a rank
    (`rank_in_layer`). Early heads weigh more than late ones whatever they do; read both.

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
        batch_size: heads to a pass. It changes figures by rounding only.
        seed: of the draw and the stimulus; None: one more than that of the report.
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
    seed = fresh_seed(report, seed)
    setting = Setting.of(
        model,
        how=how,
        reference=reference,
        batch_size=batch_size,
        seed=seed,
        n_random=n_random,
        n_sequences=n_sequences,
    )
    claims, untested = claims_of(
        model, report, labels=labels, stimulus=stimulus, n_sequences=n_sequences, seed=seed
    )
    others = {claim.label: _others(setting, claim, n_random) for claim in claims}
    beside = {
        claim.label: every_head(model, sorted({head.layer for head in claim.heads}))
        for claim in claims
    }
    needed = {
        claim.label: [(head,) for head in sorted({*others[claim.label], *beside[claim.label]})]
        for claim in claims
    }
    tables = LossTable.of(setting, claims, needed)
    measure([table.run for table in tables], resume=resume, progress=progress)
    pairs = [
        (
            table.trial(
                claim,
                (head,),
                [(other,) for other in others[claim.label]],
                are_all=n_random is None,
                rank_in_layer=_rank(setting, table, claim, head),
            ),
            claim,
        )
        for table in tables
        for claim in table.claims
        for head in claim.heads
    ]
    order = {claim.label: place for place, claim in enumerate(claims)}
    pairs.sort(key=lambda pair: (order[pair[1].label], -pair[1].direction * pair[0].effect.change))
    return Confirmation(
        trials=judged([pair[0] for pair in pairs], [pair[1].direction for pair in pairs], alpha),
        untested=untested,
        by="head",
        how=how,
        alpha=alpha,
        n_random=n_random,
        n_passes=sum(table.run.n_passes for table in tables),
        reference=setting.reference_in_words(),
        provenance=setting.provenance(claims),
    )


def _others(setting: Setting, claim: Claim, n_random: int | None) -> list[Head]:
    """Heads without the label: all of them, or a sample."""
    every = every_head(setting.model, attention_layers(setting.model))
    unlabelled = [head for head in every if head not in claim.heads]
    order = torch.randperm(len(unlabelled), generator=setting.generator())
    return sorted(unlabelled[index] for index in order[:n_random].tolist())


def _rank(setting: Setting, table: LossTable, claim: Claim, head: Head) -> tuple[int, int]:
    """A head's place in its layer by loss change, and how many heads the layer has."""
    layer = every_head(setting.model, [head.layer])
    changes = table.changes(claim, [(head,), *((other,) for other in layer)])
    paired = PairedChanges.of(changes, sequence_of_query(claim))
    own, *every = (claim.direction * paired.mean.float()).tolist()
    return 1 + sum(change > own for change in every), len(layer)
