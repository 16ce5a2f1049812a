"""`confirm_heads`: all heads of a label ablated together."""

from __future__ import annotations

import os
from collections.abc import Sequence

from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.interventions.confirm.claims import Labelled, claims_of
from mi_toolkit.interventions.confirm.confirmation import Confirmation
from mi_toolkit.interventions.confirm.measure import measure
from mi_toolkit.interventions.confirm.random_sets import random_sets
from mi_toolkit.interventions.confirm.setting import DEFAULT_SEQUENCES, Setting, generator
from mi_toolkit.interventions.confirm.verdict import DEFAULT_ALPHA, judged
from mi_toolkit.prompts.tokens import Prompt, TokenBatch


def confirm_heads(
    model: HookedModel,
    report: Labelled,
    *,
    labels: Sequence[str] | None = None,
    stimulus: Prompt | None = None,
    how: str = "mean",
    reference: Prompt | TokenBatch | None = None,
    n_random: int = 100,
    n_sequences: int | None = DEFAULT_SEQUENCES,
    alpha: float = DEFAULT_ALPHA,
    batch_size: int | None = None,
    seed: int = 0,
    resume: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> Confirmation:
    """Whether each label's heads matter for what the label says, more than random heads do.

    All heads of a label are ablated together, and beside them random sets with as many heads in
    each layer, none of them of the label (where a layer has too few others, see `crowded`). The
    loss counts of the token after each query that the behaviour can use: for induction, after a
    token that stood earlier. Per label: the loss change in nats; `effect`, its distance from the
    random sets' mean in their standard deviations, with a 95% interval over sequences; and its
    percentile among them, which with n random sets is at most `100 n / (n + 1)`.

    A label **survives** where `p = (1 + random sets that reach the change) / (1 + random sets)`,
    corrected over all labels tested (Benjamini and Hochberg's false discovery rate), is at most
    `alpha`, and the effect's interval lies above 0 (below it for `prefix_suppression`, whose heads
    hold the right token back). It is **undecided** where it ranks high (p up to a quarter) among
    random sets too few to rule out chance: in a layer of four heads a single head has three others.
    Else it **fails**. Where there are no more distinct sets than `n_random`, all are run.

    What it does not tell: a label that many heads share (`first_token`) is compared with sets that
    must hold labelled heads too; and a label that survives says that the heads matter there, not
    that their attention is how. `mean` keeps a head's constant part; for a head that rests on the
    sink `zero` shows more, and breaks more.

    Args:
        model: the model of the report; it is left as it was.
        report: of `classify_heads`; or heads by the behaviour that they are said to have, such as
            `{"induction": ["L5H1"]}`.
        labels: only these; None for all that a head carries.
        stimulus: what to measure the losses on. None: what the label was given on, in a report of
            the standard protocol the behaviour's home stimulus; a name such as `natural`; or a
            prompt of your own.
        how: the kind of ablation, see `ablating`.
        reference: what `mean` and `resample` take from; None: natural text, and another sequence
            of the stimulus.
        n_random: random sets to a label.
        n_sequences: at most so many sequences of the stimulus; None for all.
        alpha: the false discovery rate up to which a label survives.
        batch_size: sets to a pass; None: as many as keep the logits under 256 MiB, at most 32.
        seed: of the random sets, the bootstrap, and a stimulus that the report does not hold.
        resume: a folder that keeps losses as they come; a call that asks for the same goes on
            from there, after an interruption too.
        progress: a progress bar; None: where somebody looks and it takes long.

    Raises:
        UnknownNameError: no such label, stimulus, kind of ablation, or head in this model.
        ReportError: the report is of a model of another shape.
        PromptError: a prompt or a reference that does not fit.
        HookError: a hook did not fire.

    Example:
        >>> import mi_toolkit as mi
        >>> model = mi.load_model("toy-gpt2")
        >>> found = mi.confirm_heads(model, {"induction": ["L2H0"]}, n_sequences=8)
        >>> trial = found["induction"][0]
        >>> trial.effect.change > trial.effect.random.max() + 1
        tensor(True)
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
    n_heads = int(model.cfg.n_heads)
    drawn = [
        random_sets(claim.heads, n_heads=n_heads, n_sets=n_random, generator=generator(seed))
        for claim in claims
    ]
    runs = [
        setting.runs([(), claim.heads, *beside.sets], claim.batch, claim.queries)
        for claim, beside in zip(claims, drawn, strict=True)
    ]
    measure(runs, resume=resume, progress=progress)
    trials = [
        setting.trial(
            claim,
            claim.heads,
            run.losses,
            beside.sets,
            are_all=beside.are_all,
            crowded=beside.crowded,
        )
        for claim, run, beside in zip(claims, runs, drawn, strict=True)
    ]
    return Confirmation(
        trials=judged(trials, claims, alpha),
        untested=untested,
        by="label",
        how=how,
        alpha=alpha,
        n_random=n_random,
        reference=setting.reference_in_words(),
        provenance=setting.provenance(claims),
    )
