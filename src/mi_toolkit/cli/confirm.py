"""`mi-toolkit confirm`: whether ablation bears labels out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

import mi_toolkit as mi
from mi_toolkit.cli.options import (
    DEFAULT_LOADING,
    DEFAULT_MODEL,
    CountOrNone,
    LoadOptions,
    ModelName,
    Several,
    Switch,
    between_zero_and_one,
)
from mi_toolkit.cli.output import DEFAULT_OUTPUT, OutputOptions, columns
from mi_toolkit.cli.terminal import (
    FOR_READING,
    UsageError,
    bold,
    third_parties_kept_off_stdout,
    width,
)

if TYPE_CHECKING:
    from mi_toolkit.core.model import HookedModel
    from mi_toolkit.interventions.confirm.confirmation import Confirmation
    from mi_toolkit.interventions.confirm.hypotheses import Labelled


MIN_RANDOM, DEFAULT_BUDGET = 500, 400
"""As in `confirm_heads`, whose module takes seconds to import; a test holds them to it."""


def confirm(
    *,
    model: ModelName = DEFAULT_MODEL,
    report: Path | None = None,
    labels: Several[str] = None,
    heads: Several[str] = None,
    stimulus: str | None = None,
    how: Literal["mean", "zero", "resample", "pattern_preserving"] = "mean",
    per_head: Switch = False,
    n_random: CountOrNone = None,
    n_sequences: CountOrNone = 16,
    alpha: Annotated[float, Parameter(validator=between_zero_and_one)] = 0.05,
    shapley: Switch = False,
    budget: CountOrNone = None,
    seed: int | None = None,
    batch_size: CountOrNone = None,
    out: OutputOptions = DEFAULT_OUTPUT,
    load: LoadOptions = DEFAULT_LOADING,
) -> None:
    """Ablate the heads of each label: does the loss rise more than without other heads?

    Without --report the model is classified first, by the standard protocol.

    Args:
        model: Name or alias (see mi-toolkit models --all), hub id, folder, or .gguf file.
        report: A report.safetensors that classify --output wrote for this model.
        labels: Only these, such as induction.
        heads: Heads of your own choice (L5H1 L6H9) in the place of a report's, for one of --labels.
        stimulus: What to measure the loss on: repeated_random, natural, or a text of your own in
            quotes. Without it: what each label was given on, but other sequences of it.
        how: What stands in for the heads' outputs: their mean over natural text, zeros, those of
            another sequence, or zeros with all later attention kept as it was.
        per_head: Ablate each labelled head alone, next to single heads of the whole model.
        n_random: Random sets to a label that has more than 2,000 of its kind: 500 or more. With
            --per-head: how many other heads; without it all.
        n_sequences: Sequences of the stimulus to run at most.
        alpha: The false discovery rate up to which a label survives.
        shapley: Share the change out among the heads of each label, and look for heads that stand
            in for them.
        budget: Passes that the shares of a label may take. Without it 400.
        seed: Of the random sets and the sequences. Without it: not the one that gave the labels.
        batch_size: Sets of heads to a pass. It changes memory and time, and figures by rounding
            only.
        out: What it gives; Confirmation.load reads confirmation.safetensors. An interrupted
            run is taken up again from --output.
        load: How the model is loaded.
    """
    if heads and (not labels or len(labels) != 1 or report is not None):
        raise UsageError(msg="--heads goes with one of --labels, and without --report.")
    if per_head and (shapley or budget):
        raise UsageError(msg="--shapley and --budget are of sets of heads: not with --per-head.")
    if n_random is not None and n_random < MIN_RANDOM and not per_head:
        raise UsageError(msg=f"--n-random is {MIN_RANDOM} or more, except with --per-head.")
    out.check()
    if report is not None:
        # Read before the model: a wrong file is reported at once.

        labelled: Labelled | None = mi.HeadReport.load(report)
    else:
        labelled = {labels[0]: heads} if labels and heads else None
    hooked = load.load(model)

    kept = None if out.output is None else out.output / ".losses"
    with third_parties_kept_off_stdout():
        options: dict[str, Any] = {
            "labels": labels,
            "stimulus": stimulus,
            "how": how,
            "n_sequences": n_sequences,
            "alpha": alpha,
            "seed": seed,
            "batch_size": batch_size,
            "resume": kept,
        }
        of_model = _labelled(hooked, labelled)
        if per_head:
            found = mi.interventions.confirm_each_head(
                hooked, of_model, n_random=n_random, **options
            )
        else:
            found = mi.confirm_heads(
                hooked,
                of_model,
                n_random=n_random or MIN_RANDOM,
                shapley=shapley,
                budget=budget or DEFAULT_BUDGET,
                **options,
            )
    out.deliver(
        found, name="confirmation", record=lambda: _record(found), lines=lambda: _lines(found)
    )
    if kept is not None:
        shutil.rmtree(kept, ignore_errors=True)


def _labelled(model: HookedModel, labelled: Labelled | None) -> Labelled:
    if labelled is not None:
        return labelled

    return mi.classify_heads(model)


def _record(found: Confirmation) -> dict[str, Any]:
    record = found.record()
    for trial in record["trials"]:
        del trial["random_sets"]  # hundreds a trial, for the file
    return record


def _lines(found: Confirmation) -> Iterator[str]:
    table = found.text_table()
    yield bold(table.title)
    yield from columns([table.header, *table.rows], width=width(elsewhere=FOR_READING))
    yield found.facts()
