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
from mi_toolkit.core.io import atomic_write
from mi_toolkit.core.provenance import installed_versions
from mi_toolkit.core.stimuli import repeated_random
from mi_toolkit.interventions.confirm.confirmation import (
    Backup,
    HypothesisTest,
    LayerPart,
    ShapleyValue,
    SharedHead,
    with_interval,
)

MODEL = "smollm2-135m-instruct"
LABELS = ["induction", "previous_token"]
MOST = 12
"""Backups that the page lists."""

Result = TypeVar("Result", mi.HeadReport, mi.interventions.Confirmation)


def main() -> None:
    """Classify, confirm, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--labels", nargs="+", default=LABELS)
    parser.add_argument("--shapley", nargs="*", default=LABELS[:1], help="labels to share out")
    parser.add_argument("--how", default="mean")
    parser.add_argument("--n-sequences", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=8, help="random tokens, given twice")
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
        mi.interventions.Confirmation,
        options.resume,
        "together",
        lambda: mi.confirm_heads(model, report, shapley=options.shapley, **asked),
    )
    print(together, f"{time.process_time():.0f} s of processor", sep="\n", flush=True)
    alone = kept(
        mi.interventions.Confirmation,
        options.resume,
        "alone",
        lambda: mi.interventions.confirm_each_head(model, report, **asked),
    )
    print(alone, f"{time.process_time():.0f} s of processor", sep="\n", flush=True)
    page = render(report, together, alone, options.tokens)
    if options.output:
        with atomic_write(options.output) as draft:
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
    report: mi.HeadReport,
    together: mi.interventions.Confirmation,
    alone: mi.interventions.Confirmation,
    n_tokens: int,
) -> str:
    """The page."""
    versions = ", ".join(f"{name} {version}" for name, version in installed_versions().items())
    first = together.trials[0]
    explained = "\n".join(explanation(trial) for trial in together.trials)
    return f"""# Confirmed heads

Written by `benchmarks/confirm.py` with {versions}, {torch.get_num_threads()} threads.

Labels of {together.provenance.model}, given by `classify_heads` under the standard protocol, put to
the test of {together.how} ablation (values from {together.reference}) on {first.n_sequences}
sequences that gave no label: a BOS and {n_tokens} random tokens, given twice. They are so few and
so short to keep the cost at {together.n_passes} forward passes of up to 32 sets of heads; the
intervals are as wide as that makes them. The loss that counts is that of the token after each query
that the behaviour can use.

## All heads of a label together

Next to {len(first.random_sets)} random sets with as many heads in each layer, drawn from all heads
of these layers, the labelled ones included. A label survives where its false discovery rate is at
most {together.alpha:g} and its effect's interval is above 0.

{table(SETS, [set_row(trial) for trial in together.trials])}

What counts for `previous_token` is every query, and in the first half of such a sequence nothing
can be predicted. A label that fails is not wrong about where the heads look: other heads of the
same layers matter about as much for these predictions.

{explained}
## Each head alone

Next to every head of the model without the label ({report.scope.numel()} heads in all), and its
place in its own layer. A head may fail where its set survives: heads of one label stand in for each
other.

{table(HEADS, [head_row(report, trial) for trial in alone.trials])}
"""


SETS = [
    "label",
    "heads",
    "loss without ablation",
    "loss change (nats)",
    "other sets: mean (least to most)",
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
LAYERS = ["only these heads", "loss change (nats)", "other sets of the layer: mean", "rank"]
SHARED = ["head", "alone (nats)", "in sets that do as much", "in all sets"]
SHARES = ["head", "share (nats) ± standard error", "alone (nats)"]
BACKUPS = ["head", "growth (nats)", "alone (nats)", "after the set (nats)"]


def explanation(trial: HypothesisTest) -> str:
    """What explains the verdict on one label."""
    found = trial.explanation
    if found is None:
        return ""
    parts = [f"### {trial.label}: what explains it\n"]
    if found.layers:
        parts += ["Its heads layer by layer, next to as many other heads of the layer.\n"]
        parts += [table(LAYERS, [layer_row(part) for part in found.layers]), ""]
    if found.shared:
        without = (
            f"Of the {found.n_without} sets without any, {found.n_reaching_without} do as much."
        )
        parts += [
            f"Heads that the {found.n_reaching} random sets which do as much share. {without}\n",
            table(SHARED, [shared_row(shared) for shared in found.shared]),
            "",
        ]
    if found.shapley:
        parts += [
            f"Each head's Shapley value over {found.n_orders} orders: its share of the change.\n",
            table(SHARES, [share_row(share) for share in found.shapley]),
            "",
        ]
    if found.backups is not None:
        n_backups = len(found.backups) or "none"
        parts += [f"Heads whose own effect grows when the set is ablated: {n_backups}.\n"]
    if found.backups:
        shown = found.backups[:MOST]
        more = len(found.backups) - len(shown)
        parts += [
            table(BACKUPS, [backup_row(backup) for backup in shown]),
            f"\n{more} more grow less.\n" if more else "",
        ]
    return "\n".join(parts)


def layer_row(part: LayerPart) -> list[str]:
    """The set's heads of one layer."""
    return [
        " ".join(map(str, part.heads)),
        with_interval(part.change, part.change_low, part.change_high, digits=3),
        f"{part.others.mean():+.3f}" if len(part.others) else "",
        f"{part.rank} of {len(part.others) + 1}",
    ]


def shared_row(shared: SharedHead) -> list[str]:
    """A head that the reaching sets share."""
    return [
        f"{shared.head}{'' if shared.labelled else ' (without the label)'}",
        with_interval(shared.change, shared.change_low, shared.change_high, digits=3),
        str(shared.n_reaching),
        str(shared.n_sets),
    ]


def share_row(share: ShapleyValue) -> list[str]:
    """A head's share."""
    value = f"{share.value:+.3f} ± {share.standard_error:.3f}"
    return [str(share.head), value, f"{share.alone:+.3f}"]


def backup_row(backup: Backup) -> list[str]:
    """A head that stands in."""
    return [
        str(backup.head),
        with_interval(backup.growth, backup.growth_low, backup.growth_high, digits=3),
        f"{backup.alone:+.3f}",
        f"{backup.after:+.3f}",
    ]


def set_row(trial: HypothesisTest) -> list[str]:
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


def head_row(report: mi.HeadReport, trial: HypothesisTest) -> list[str]:
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
