"""Which induction and previous-token heads ablation bears out, and what it costs to find out.

python benchmarks/confirm.py                                      print the page
python benchmarks/confirm.py --output docs/confirmed_heads.md     and write it there
python benchmarks/confirm.py --resume FOLDER                      keep losses, and go on from them
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

import mi_toolkit as mi
from mi_toolkit.files import written_whole
from mi_toolkit.interventions.confirm.confirmation import Trial, with_interval
from mi_toolkit.prompts.stimuli import repeated_random
from mi_toolkit.provenance import installed_versions

MODEL = "smollm2-135m-instruct"
LABELS = ["induction", "previous_token"]

Result = TypeVar("Result", mi.HeadReport, mi.Confirmation)


def main() -> None:
    """Classify, confirm, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--labels", nargs="+", default=LABELS)
    parser.add_argument("--shapley", nargs="*", default=LABELS[:1], help="labels to share out")
    parser.add_argument("--how", default="mean")
    parser.add_argument("--n-sequences", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=10, help="random tokens, given twice")
    parser.add_argument("--report", type=Path, help="a report of the model, instead of a new one")
    parser.add_argument("--output", type=Path, help="a Markdown file to write")
    parser.add_argument("--resume", type=Path, help="a folder that keeps losses as they come")
    options = parser.parse_args()
    model = mi.load_model(options.model)
    if options.report is None:
        report = kept(mi.HeadReport, options.resume, "report", lambda: mi.classify_heads(model))
    else:
        report = mi.HeadReport.load(options.report)
    asked: dict[str, Any] = {
        # Not the seed of the report's own sequences.
        "stimulus": repeated_random(
            model,
            n_tokens=options.tokens,
            n_sequences=options.n_sequences,
            seed=report.provenance.seed + 1,
        ).ids,
        "labels": options.labels,
        "how": options.how,
        "n_sequences": options.n_sequences,
        "resume": options.resume,
    }
    together = kept(
        mi.Confirmation,
        options.resume,
        "together",
        lambda: mi.confirm_heads(model, report, shapley=options.shapley, **asked),
    )
    print(together, f"{time.process_time():.0f} s of processor", sep="\n", flush=True)
    alone = kept(
        mi.Confirmation,
        options.resume,
        "alone",
        lambda: mi.confirm_each_head(model, report, **asked),
    )
    print(alone, f"{time.process_time():.0f} s of processor", sep="\n", flush=True)
    page = render(report, together, alone, options.tokens)
    if options.output:
        with written_whole(options.output) as draft:
            draft.write_text(page, encoding="utf-8")
    else:
        print(page)


def kept(kind: type[Result], folder: Path | None, name: str, make: Callable[[], Result]) -> Result:
    """A result from the folder where it is there, else made and kept there."""
    path = None if folder is None else folder / f"{name}.safetensors"
    if path is not None and path.exists():
        return kind.load(path)
    made = make()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        made.save(path)
    return made


def render(
    report: mi.HeadReport, together: mi.Confirmation, alone: mi.Confirmation, n_tokens: int
) -> str:
    """The page."""
    versions = ", ".join(f"{name} {version}" for name, version in installed_versions().items())
    first = together.trials[0]
    n_heads = report.scope.numel()
    return f"""# Confirmed heads

Written by `benchmarks/confirm.py` with {versions}, {torch.get_num_threads()} threads.

Labels of {together.provenance.model}, given by `classify_heads` under the standard protocol, put to
the test of {together.how} ablation (values from {together.reference}) on {first.n_sequences} other
sequences: a BOS and {n_tokens} random tokens, given twice. What counts is the loss of the token
after each query that the behaviour can use.

## All heads of a label together

Beside {together.n_random} random sets with as many heads in each layer, none of them of the label.
A percentile cannot be above {100 - 100 / (1 + len(first.effect.random)):.1f} here. A label survives
where its false discovery rate is at most {together.alpha:g} and its effect's interval is above 0.

{table(SETS, [set_row(trial) for trial in together.trials])}

What counts for `previous_token` is every query, and in the first half of such a sequence nothing
can be predicted. A label that fails is not one that is wrong about where the heads look: it says
that random heads of the same layers matter about as much for these predictions.

## Each head alone

Beside every head of the model without the label ({n_heads} heads in all), and its place in its own
layer. A head may fail where its set survives: heads of one label stand in for each other.

{table(HEADS, [head_row(report, trial) for trial in alone.trials])}
"""


SETS = [
    "label",
    "heads",
    "loss without ablation",
    "loss change (nats)",
    "random sets: mean (least to most)",
    "effect (sd)",
    "percentile",
    "verdict",
]
HEADS = [
    "label",
    "head",
    "lift",
    "loss change (nats)",
    "effect (sd)",
    "percentile",
    "in its layer",
    "verdict",
]


def set_row(trial: Trial) -> list[str]:
    """One label."""
    effect, random = trial.effect, trial.effect.random
    return [
        trial.label,
        " ".join(map(str, trial.heads)),
        f"{trial.clean_loss:.3f}",
        with_interval(effect.change, effect.change_low, effect.change_high, digits=3),
        f"{random.mean():+.3f} ({random.min():+.3f} to {random.max():+.3f})",
        with_interval(effect.effect, effect.effect_low, effect.effect_high, digits=1),
        f"{effect.percentile:.1f}",
        f"{trial.verdict}: {trial.reason}",
    ]


def head_row(report: mi.HeadReport, trial: Trial) -> list[str]:
    """One head."""
    effect, (head,) = trial.effect, trial.heads
    rank, of = trial.rank_in_layer or (0, 0)
    return [
        trial.label,
        str(head),
        f"{float(report[trial.label][head]):.2f}",
        with_interval(effect.change, effect.change_low, effect.change_high, digits=3),
        with_interval(effect.effect, effect.effect_low, effect.effect_high, digits=1),
        f"{effect.percentile:.1f}",
        f"{rank} of {of}",
        f"{trial.verdict}: {trial.reason}",
    ]


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
