"""`confirm_heads`: all heads of a label ablated together."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Sequence

import torch

from mi_toolkit.core.errors import PromptError
from mi_toolkit.core.head import Head
from mi_toolkit.core.model import HookedModel, attention_layers
from mi_toolkit.core.process_state import one_job
from mi_toolkit.core.random_sets import RandomSets, n_sets_like, random_sets
from mi_toolkit.core.tokens import Prompt, TokenBatch
from mi_toolkit.interventions.confirm.confirmation import Confirmation
from mi_toolkit.interventions.confirm.explanation import Plan
from mi_toolkit.interventions.confirm.hypotheses import Hypothesis, Labelled, claims_of, fresh_seed
from mi_toolkit.interventions.confirm.losses import PairedChanges, measure
from mi_toolkit.interventions.confirm.setting import (
    DEFAULT_ALPHA,
    DEFAULT_SEQUENCES,
    AblationConfig,
    LossTable,
    every_head,
    judged,
    sequence_of_query,
)

ENUMERABLE = 2_000
"""Sets of one kind up to which all are run, so that p is exact."""

MIN_RANDOM = 500
"""Random sets where there are more; fewer would leave p too coarse for several labels."""

DEFAULT_BUDGET = 400


@one_job
def confirm_heads(
    model: HookedModel,
    report: Labelled,
    *,
    labels: Sequence[str] | str | None = None,
    stimulus: Prompt | None = None,
    how: str = "mean",
    reference: Prompt | TokenBatch | None = None,
    n_random: int = MIN_RANDOM,
    n_sequences: int | None = DEFAULT_SEQUENCES,
    alpha: float = DEFAULT_ALPHA,
    shapley: bool | Collection[str] = False,
    budget: int = DEFAULT_BUDGET,
    batch_size: int | None = None,
    seed: int | None = None,
    resume: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> Confirmation:
    """Whether each label's heads matter for what the label says, more than other heads do.

    All heads of a label are ablated together, and so are other sets with as many heads in each
    layer, drawn from all heads of those layers, the labelled ones included: under the null the
    labelled set is one of these draws. Where there are at most 2,000 such sets, all are run and p
    is exact; else `n_random` of them. The loss counts of the token after each query that the
    behaviour can use: for induction, after a token that stood earlier. Per label: the loss change
    in nats; `effect`, its distance from the other sets' mean in their standard deviations, with a
    95% interval over sequences; and its percentile among them.

    A label **survives** where `p = (1 + other sets that reach the change) / (1 + other sets)`,
    corrected over all labels tested (Benjamini and Hochberg's false discovery rate), is at most
    `alpha`, and the effect's interval lies above 0 (below it for `prefix_suppression`, whose heads
    hold the right token back). It is **undecided** where it ranks high (p up to a quarter) among
    too few sets to rule out chance: in a layer of four heads a single head has three others, and
    chance alone puts it first one time in four. Its row says how often, and how many others a
    verdict takes; the bundled models have 16 heads in all, so that no single head of theirs can
    reach a p of 0.05 by any choice of others. Else it **fails**.

    Each trial's `explanation` says what explains the verdict: the effect of each layer's part next
    to other heads of that layer, and the heads that the sets which do as much have in common. With
    `shapley=True` it also has each head's share of the change, and `backups`: heads without the
    label whose own effect grows when the set is ablated.

    What it does not say: a label that survives says that the heads matter there, not that their
    attention is how. `mean` keeps a head's constant part; for a head that rests on the sink `zero`
    shows more, and breaks more.

    Args:
        model: the model of the report; it is left as it was.
        report: of `classify_heads`; or heads by the behaviour that they are said to have, such as
            `{"induction": ["L5H1"]}`.
        labels: only these; None for all that a head carries.
        stimulus: what to measure the losses on. None: the kind of stimulus that the label was given
            on, but other sequences of it; a name such as `natural`; or a prompt of your own.
        how: the kind of ablation, see `ablating`.
        reference: what `mean` and `resample` take from; None: natural text, and another sequence
            of the stimulus.
        n_random: random sets to a label where there are more than 2,000; at least 500.
        n_sequences: at most so many sequences of the stimulus; None for all.
        alpha: the false discovery rate up to which a label survives.
        shapley: whether to share the change out among the heads, and to look for backups; or the
            labels to do so for. That takes up to `budget` passes to a label, and for the backups
            two sets for each head of the model without the label.
        budget: passes that a label's Shapley values may take, each of up to 32 sets on one
            sequence. More passes are more orders, and smaller standard errors.
        batch_size: sets to a pass; None: as many as keep the logits under 256 MiB, at most 32. It
            changes figures by rounding only.
        seed: of the random sets and the stimulus; None: one more than that of the report, so that
            the sequences are not those that gave the label.
        resume: a folder that keeps losses as they come; a call that asks for the same goes on
            from there, after an interruption too.
        progress: a progress bar; None: where somebody looks and it takes long.

    Raises:
        UnknownNameError: no such label, stimulus, kind of ablation, or head in this model.
        ReportError: the report is of a model of another shape.
        PromptError: a prompt or a reference that does not fit; too few random sets; too small a
            budget.
        HookError: a hook did not fire.

    Example:
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> found = mi.confirm_heads(model, {"induction": ["L1H1", "L2H0"]}, n_sequences=4)
        >>> trial = found["induction"][0]
        >>> trial.are_all, len(trial.random_sets), trial.explanation.layers[1].rank
        (True, 15, 1)
    """
    if n_random < MIN_RANDOM:
        raise PromptError(
            f"n_random={n_random} is too few to rank a set among: {MIN_RANDOM} or more. Fewer "
            "sequences (n_sequences=) make it shorter."
        )
    seed = fresh_seed(report, seed)
    setting = AblationConfig.of(
        model,
        how=how,
        reference=reference,
        batch_size=batch_size,
        seed=seed,
        n_sequences=n_sequences,
        budget=budget,
    )
    claims, untested = claims_of(
        model, report, labels=labels, stimulus=stimulus, n_sequences=n_sequences, seed=seed
    )
    shared_out = {claim.label for claim in claims} if shapley is True else set(shapley or ())
    plans = {
        claim.label: Plan.of(
            setting,
            claim,
            _null(setting, claim, n_random),
            budget=budget if claim.label in shared_out else None,
        )
        for claim in claims
    }
    tables = LossTable.of(setting, claims, {name: plan.sets() for name, plan in plans.items()})
    measure([table.run for table in tables], resume=resume, progress=progress)
    trials = {
        claim.label: table.trial(
            claim,
            claim.heads,
            plans[claim.label].null.sets,
            are_all=plans[claim.label].null.are_all,
            explanation=plans[claim.label].explained(table, alpha),
        )
        for table in tables
        for claim in table.claims
    }
    return Confirmation(
        trials=judged(
            [trials[claim.label] for claim in claims], [claim.direction for claim in claims], alpha
        ),
        untested=untested,
        by="label",
        how=how,
        alpha=alpha,
        n_random=n_random,
        n_passes=sum(table.run.n_passes for table in tables),
        reference=setting.reference_in_words(),
        provenance=setting.provenance(claims),
    )


def _null(setting: AblationConfig, claim: Hypothesis, n_random: int) -> RandomSets:
    """All other sets of the claim's kind where they can be listed, else `n_random` of them."""
    n_heads = int(setting.model.cfg.n_heads)
    few = n_sets_like(claim.heads, n_heads=n_heads) <= ENUMERABLE
    return random_sets(
        claim.heads,
        n_heads=n_heads,
        n_sets=ENUMERABLE if few else n_random,
        generator=setting.generator(),
    )


@one_job
def confirm_each_head(
    model: HookedModel,
    report: Labelled,
    *,
    labels: Sequence[str] | str | None = None,
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
    (`rank_in_layer`). Early heads weigh more than late ones whatever they do; read both. Where so
    many heads carry the label that the others are too few for a p of `alpha`, it is ranked among
    all other heads of the model, those with the label included.

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
        >>> claimed = {"induction": ["L2H0", "L2H3"]}
        >>> found = mi.interventions.confirm_each_head(model, claimed, n_sequences=8)
        >>> [(*trial.heads, trial.rank_in_layer) for trial in found["induction"]]
        [(L2H0, (1, 4)), (L2H3, ...)]
    """
    seed = fresh_seed(report, seed)
    setting = AblationConfig.of(
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
    enough = math.ceil(1 / alpha) - 1
    others = {claim.label: _others(setting, claim, n_random, enough) for claim in claims}
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
                [(other,) for other in others[claim.label] if other != head],
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


def _others(
    setting: AblationConfig, claim: Hypothesis, n_random: int | None, enough: int
) -> list[Head]:
    """Heads without the label: all of them, or a sample; of every head where these are too few."""
    every = every_head(setting.model, attention_layers(setting.model))
    unlabelled = [head for head in every if head not in claim.heads]
    if len(unlabelled) < enough:
        unlabelled = every
    order = torch.randperm(len(unlabelled), generator=setting.generator())
    return sorted(unlabelled[index] for index in order[:n_random].tolist())


def _rank(
    setting: AblationConfig, table: LossTable, claim: Hypothesis, head: Head
) -> tuple[int, int]:
    """A head's place in its layer by loss change, and how many heads the layer has."""
    layer = every_head(setting.model, [head.layer])
    changes = table.changes(claim, [(head,), *((other,) for other in layer)])
    paired = PairedChanges.of(changes, sequence_of_query(claim))
    own, *every = (claim.direction * paired.mean.float()).tolist()
    return 1 + sum(change > own for change in every), len(layer)
