"""`mi-toolkit sweep`, the same heads at several lengths, `sweep-run`, many jobs, and `dynamics`."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

import mi_toolkit as mi
from mi_toolkit.cli.options import (
    DEFAULT_LOADING,
    DEFAULT_MODEL,
    Count,
    CountOrNone,
    LoadOptions,
    ModelName,
    Several,
    Switch,
    WeightingName,
    between_zero_and_one,
)
from mi_toolkit.cli.output import (
    DEFAULT_OUTPUT,
    OutputOptions,
    as_json,
    check_folder,
    columns,
    wrapped,
)
from mi_toolkit.cli.terminal import (
    FOR_READING,
    bold,
    third_parties_kept_off_stdout,
    width,
)
from mi_toolkit.core.errors import SweepError
from mi_toolkit.core.tables import table_of

if TYPE_CHECKING:
    from mi_toolkit.compare.lengths import LengthSweep


def sweep(
    *texts: str,
    model: ModelName = DEFAULT_MODEL,
    lengths: Several[int] = None,
    behaviours: Several[str] = None,
    sequences: Count = 32,
    min_lift: Annotated[float, Parameter(validator=between_zero_and_one)] = 0.3,
    weighting: WeightingName = "prompts",
    seed: int = 0,
    batch_size: CountOrNone = None,
    out: OutputOptions = DEFAULT_OUTPUT,
    load: LoadOptions = DEFAULT_LOADING,
) -> None:
    """Find out at which lengths a head's label holds, on random tokens given twice and on text.

    Args:
        model: Name or alias (see mi-toolkit models --all), hub id, folder, or .gguf file.
        texts: Your own text, cut and joined to each length, in place of the bundled passages.
        lengths: In tokens, a beginning-of-sequence token not counted. Without it: 32 64 128 256.
        behaviours: Only these, one or several, such as previous_token or induction.
        sequences: Sequences at each length, as far as the text goes.
        min_lift: The lift over chance (0 chance, 1 perfect) that a label says is exceeded: its
            one-sided p passes Benjamini and Hochberg over all heads and behaviours, at a false
            discovery rate of 5%.
        weighting: What counts alike where texts are of unequal length: prompts, each text; or
            queries, each of their tokens that can show a behaviour.
        seed: Of the random tokens.
        batch_size: Sequences to a pass. It changes memory and time; figures by rounding only.
        out: What it gives, and a report per length; LengthSweep.load reads the folder. A sweep that
            was interrupted goes on from what is there.
        load: How the model is loaded.
    """
    out.check()
    hooked = load.load(model)
    asked: dict[str, Any] = {"lengths": lengths} if lengths else {}
    with third_parties_kept_off_stdout():
        swept = mi.compare.length_sweep(
            hooked,
            **asked,
            text=list(texts) or None,
            behaviours=behaviours,
            n_sequences=sequences,
            min_lift=min_lift,
            weighting=weighting,
            batch_size=batch_size,
            seed=seed,
            folder=out.output,
        )
    out.deliver(
        swept,
        name="sweep",
        record=lambda: {
            "model": swept.model,
            "lengths": list(swept.lengths),
            "labels": swept.label_table().to_dict("records"),
            "heads": list(swept.rows()),
        },
        lines=lambda: sweep_lines(swept, width(elsewhere=FOR_READING)),
        tables={"heads.csv": swept.to_pandas, "labels.csv": swept.label_table},
        save=lambda path: swept.save_record(path.parent),  # its reports are there
    )


def sweep_lines(sweep: LengthSweep, width: int) -> Iterator[str]:
    """Which heads carry which label at which length, with their figures."""
    yield f"{sweep.model} at {', '.join(map(str, sweep.lengths))} tokens"
    for stimulus in sweep.stimuli:
        yield ""
        first = sweep.report(stimulus, sweep.lengths[0])
        counts = [sum(map(len, sweep.report(stimulus, n).tokens.values())) for n in sweep.lengths]
        title = f"On {stimulus} ({', '.join(map(str, counts))} sequences)"
        yield from map(bold, wrapped(title, width))
        rows = [["label", "head", *(str(length) for length in sweep.lengths)]]
        for label in first.label_names:
            rows += _sweep_rows(sweep, stimulus, label)
        if len(rows) == 1:
            rows.append(["none", *[""] * (len(rows[0]) - 1)])
        yield from columns(rows, width=width, align="<<" + ">" * (len(sweep.lengths) - 1))
    yield ""
    yield from wrapped(
        "Lift over the chance of that length (0 chance, 1 perfect), or a value; * the label holds.",
        width,
    )


def _sweep_rows(sweep: LengthSweep, stimulus: str, label: str, most: int = 6) -> list[list[str]]:
    holds = sweep.holds(label, stimulus)
    behaviour = sweep.report(stimulus, sweep.lengths[0]).behaviour_of(label)
    found = holds.any(dim=0).nonzero().tolist()
    rows = []
    for layer, head in found[:most]:
        cells = []
        for row, length in enumerate(sweep.lengths):
            report = sweep.report(stimulus, length)
            value = float(report[behaviour][layer, head])
            figure = "–" if math.isnan(value) else f"{value:z.2f}"
            cells.append(figure + ("*" if holds[row, layer, head] else " "))
        rows.append([label, f"L{layer}H{head}", *cells])
    if len(found) > most:
        rows.append([label, f"and {len(found) - most} more", *[""] * len(sweep.lengths)])
    return [[cell or " " for cell in row] for row in rows]


def sweep_run(
    study: Path,
    /,
    *,
    output: Path,
    workers: int | Literal["auto"] | None = None,
    address: str | None = None,
    threads: Count = 1,
    texts_per_part: Count = 512,
    retries: int = 3,
    mixed_versions: Switch = False,
    device: str | None = None,
    trust_remote_code: Switch = False,
    json: Switch = False,
) -> None:
    """Do many jobs on many models, as a file in TOML names them, into one folder.

    Each table [[jobs]] of the file has models, a task (classify, confirm, record, statistics,
    score_weights, ablation_sweep, verify) and, if wanted, revisions, dtypes and arguments. Run
    again after an interruption, it goes on where it was; jobs that failed are tried again. With one
    that failed the exit code is 1.

    Args:
        study: The file.
        output: The folder; mi_toolkit.open_sweep reads it.
        workers: How many processes (needs the extra ray), or auto for as many as there are cores
            or GPUs. Without it, this process does all. The files are the same, bit for bit.
        address: A Ray cluster, such as auto or HEAD:6379. Without it, this machine.
        threads: Threads of each worker. They decide last bits.
        texts_per_part: Texts after which a job is split into parts.
        retries: How often work is done again whose worker died.
        mixed_versions: Take workers with other versions of torch, transformers and the like.
        device: Where to run: cpu, cuda. Without it, CUDA if there is one.
        trust_remote_code: Let Python code that comes with a model run.
        json: Write JSON instead of a table, and nothing else, to standard output.
    """
    check_folder(output)
    logging.getLogger("mi_toolkit").setLevel(logging.INFO)
    load = {"device": device, "trust_remote_code": trust_remote_code}
    with third_parties_kept_off_stdout():
        found = mi.sweep(
            mi.sweeps.read_study(study),
            output,
            workers=workers,
            address=address,
            threads=threads,
            texts_per_part=texts_per_part,
            retries=retries,
            mixed_versions=mixed_versions,
            load={name: value for name, value in load.items() if value},
        )
    jobs = list(found.rows())
    if json:
        print(as_json({"jobs": jobs, "written": [str(output)]}))
    else:
        rows = [
            ["job", "state"],
            *([row["job"], f"{row['state']} {row['reason']}"] for row in jobs),
        ]
        head, *lines = columns(rows, width=width(elsewhere=FOR_READING))
        print(bold(head), *lines, "", f"Wrote {output}", sep="\n")
    if found.failed:
        raise SweepError(f"{len(found.failed)} of {len(jobs)} jobs failed.")


def dynamics(
    model: str,
    /,
    *,
    revisions: Several[str] = None,
    behaviours: Several[str] = None,
    confirm_at: Several[int] = None,
    min_lift: Annotated[float, Parameter(validator=between_zero_and_one)] = 0.3,
    seed: int = 0,
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    tokens_per_step: CountOrNone = None,
    workers: int | Literal["auto"] | None = None,
    address: str | None = None,
    folder: Path | None = None,
    out: OutputOptions = DEFAULT_OUTPUT,
) -> None:
    """Find out when a model's heads became what they are, from its checkpoints.

    Of each label and head: its figure by training step, when it came, with an interval, and whether
    it went again.

    Args:
        model: Hub id whose revisions are steps (Pythia, say), or a folder of checkpoint-500, ….
        revisions: Steps, or names such as step1000. Without it, some twenty, evenly over their
            logarithm; all for every one.
        behaviours: Only these, one or several, such as previous_token or induction.
        confirm_at: Steps at which ablation tests the labels.
        min_lift: The lift over chance (0 chance, 1 perfect) that a label says is exceeded: its
            one-sided p passes Benjamini and Hochberg over all heads and behaviours, at a false
            discovery rate of 5%.
        seed: Of the random stimulus.
        dtype: Precision of the weights.
        tokens_per_step: Tokens of a training step, where the checkpoints do not say.
        workers: How many processes (needs the extra ray), or auto.
        address: A Ray cluster, such as auto. Without it, this machine.
        folder: Where each checkpoint's results are kept; after an interruption it goes on there.
        out: What it gives.
    """
    out.check()
    check_folder(folder)
    logging.getLogger("mi_toolkit").setLevel(logging.INFO)
    chosen: dict[str, Any] = {"behaviours": behaviours} if behaviours else {}
    with third_parties_kept_off_stdout():
        found = mi.dynamics(
            model,
            "log" if revisions is None else "all" if revisions == ["all"] else revisions,
            output=folder,
            confirm_at=confirm_at or (),
            dtype=dtype,
            tokens_per_step=tokens_per_step,
            how={"workers": workers, "address": address},
            min_lift=min_lift,
            seed=seed,
            **chosen,
        )
    out.deliver(
        found,
        name="dynamics",
        record=lambda: {
            "model": found.model,
            "steps": list(found.steps),
            "onsets": list(found.onset_rows()),
            "confirmed": [
                vars(each) | {"heads": [*map(str, each.heads)]} for each in found.confirmed
            ],
        },
        lines=lambda: str(found).splitlines(),
        tables={
            "onsets.csv": lambda: table_of(found.onset_rows()),
            "heads.csv": found.to_pandas,
        },
    )
