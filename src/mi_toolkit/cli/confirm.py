"""`mi-toolkit confirm`: whether ablation bears a model's labels out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

import mi_toolkit as mi
from mi_toolkit.cli.errors import UsageError
from mi_toolkit.cli.options import (
    DEFAULT_LOADING,
    DEFAULT_MODEL,
    LoadOptions,
    ModelName,
    Several,
    Switch,
    at_least_one,
    between_zero_and_one,
)
from mi_toolkit.cli.output import (
    as_json,
    check_file,
    check_folder,
    columns,
    draw,
    say_written,
    writing,
)
from mi_toolkit.cli.terminal import (
    FOR_READING,
    bold,
    third_parties_kept_off_stdout,
    width,
)
from mi_toolkit.core.io import atomic_write

if TYPE_CHECKING:
    from mi_toolkit.core.model import HookedModel
    from mi_toolkit.interventions.confirm.confirmation import Confirmation
    from mi_toolkit.interventions.confirm.hypotheses import Labelled

MIN_RANDOM, DEFAULT_BUDGET = 500, 400
"""As in `confirm_heads`, whose module takes seconds to import; a test holds them to it."""

Count = Annotated[int | None, Parameter(validator=at_least_one)]


def confirm(
    *,
    model: ModelName = DEFAULT_MODEL,
    report: Path | None = None,
    labels: Several[str] = None,
    heads: Several[str] = None,
    stimulus: str | None = None,
    how: Literal["mean", "zero", "resample", "pattern_preserving"] = "mean",
    per_head: Switch = False,
    n_random: Count = None,
    n_sequences: Count = 16,
    alpha: Annotated[float, Parameter(validator=between_zero_and_one)] = 0.05,
    shapley: Switch = False,
    budget: Count = None,
    seed: int | None = None,
    batch_size: Count = None,
    output: Path | None = None,
    html: Path | None = None,
    json: Switch = False,
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
        output: Folder for confirmation.safetensors (Confirmation.load reads it), confirmation.csv
            and confirmation.png. An interrupted run is taken up again from there.
        html: File for a page of its own.
        json: Write JSON instead of a table, and nothing else, to standard output.
        load: How the model is loaded.
    """
    if heads and (not labels or len(labels) != 1 or report is not None):
        raise UsageError(msg="--heads goes with one of --labels, and without --report.")
    if per_head and (shapley or budget):
        raise UsageError(msg="--shapley and --budget are of sets of heads: not with --per-head.")
    if n_random is not None and n_random < MIN_RANDOM and not per_head:
        raise UsageError(msg=f"--n-random is {MIN_RANDOM} or more, except with --per-head.")
    check_folder(output)
    check_file(html)
    if report is not None:
        # Read before the model: a wrong file is told at once.

        labelled: Labelled | None = mi.HeadReport.load(report)
    else:
        labelled = {labels[0]: heads} if labels and heads else None
    hooked = load.load(model)

    kept = None if output is None else output / ".losses"
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
    written = list(_write(found, output, html))
    if kept is not None:
        _remove(kept)
    _show(found, written, as_data=json)


def _labelled(model: HookedModel, labelled: Labelled | None) -> Labelled:
    if labelled is not None:
        return labelled

    return mi.classify_heads(model)


def _write(found: Confirmation, folder: Path | None, page: Path | None) -> Iterator[Path]:
    if folder is not None:
        with writing(folder / "confirmation.safetensors") as path:
            found.save(path)
        yield path
        with writing(folder / "confirmation.csv") as path, atomic_write(path) as draft:
            found.to_pandas().to_csv(draft, index=False, float_format="%.6g")
        yield path
        if found.trials:
            yield from draw(found, None, folder / "confirmation.png")
    yield from draw(found, page, None)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _show(found: Confirmation, written: Sequence[Path], *, as_data: bool) -> None:
    if as_data:
        record = found.record()
        for trial in record["trials"]:
            del trial["random_sets"]  # hundreds a trial, for the file
        print(as_json({**record, "written": [str(path) for path in written]}))
        return
    from mi_toolkit.interventions.confirm.confirmation import HEADER

    print(bold(found.title()))
    room = width(elsewhere=FOR_READING)
    for line in columns([HEADER, *found.cells()], width=room):
        print(line)
    print(found.facts())
    say_written(written)
