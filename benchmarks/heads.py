"""What `classify_heads` finds and what it costs, against a bare forward pass and other tools.

Times are ratios of interleaved runs in one process, medians of processor seconds; memory is the
peak resident set of a process of its own, from its start on (Linux only).

    python benchmarks/heads.py                              print all tables
    python benchmarks/heads.py --peers                      with other tools next to
    python benchmarks/heads.py --output docs/benchmarks.md  and write them there
    python benchmarks/heads.py --sections cost long --models smollm2-135m-instruct
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from heads_runs import (
    GPT2_SHAPE,
    REPEATED,
    Bench,
    alone,
    interleaved,
    on_threads,
    ratio,
    run_alone,
    runs_at_512,
    runs_at_length,
    runs_by_default,
)
from heads_runs import without_gradients as bare

import mi_toolkit as mi
from mi_toolkit.core.errors import ModelLoadError
from mi_toolkit.core.io import atomic_write
from mi_toolkit.core.provenance import installed_versions

SMOLLM2 = "smollm2-135m-instruct"
MODELS = ["toy-gpt2", "toy-gpt-neo", "toy-pythia", "toy-opt", "toy-qwen2", SMOLLM2]
LABELS = ["previous_token", "current_token", "first_token", "duplicate_token", "induction"]
REPETITIONS = 7
TOKENS = 512
THREADS = (1, 2)
LONG = [2048, 8192]
MOST_REPEATED = 4096
PROMPTS = [100, 1000, 4000]
DTYPES = ("float32", "bfloat16")


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="a Markdown file to write")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--peers", action="store_true", help="other tools next to")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument("--lengths", nargs="+", type=int, default=LONG)
    parser.add_argument("--alone", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        name, tokens, dtype, run = options.alone
        run_alone(Bench(name, int(tokens), dtype), run)
        return
    versions = ", ".join(f"{name} {version}" for name, version in installed_versions().items())
    parts = [
        "---\nhide: [toc]  # tables as wide as the page\n---\n",
        "# Benchmarks",
        f"Written by `benchmarks/heads.py` with {versions}, {torch.get_num_threads()} threads."
        + loaded_by_others(),
    ]
    for section in options.sections:
        parts.append(SECTIONS[section](options))
        print(parts[-1], flush=True)
    if options.output:
        with atomic_write(options.output) as draft:
            draft.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def loaded_by_others() -> str:
    """What else the machine does as the benchmark begins, where it is enough to disturb it."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load < 1:
        return ""
    return (
        f"\nOther work ran next to it (load {load:.1f} on {cores} cores). Caches are then shared, "
        "which slows\nattention in blocks, whose patterns pass through them, more than a fused one."
    )


def found(options: argparse.Namespace) -> str:
    """The strongest head per behaviour on its home stimulus, with its interval, and the scopes."""
    rows = []
    for name in here(options.models):
        report = mi.classify_heads(mi.load_model(name), progress=False)
        cells = [name]
        for behaviour in LABELS:
            head, row = report.strongest(behaviour), report.index(behaviour)
            low, high = (float(ends[row][head]) for ends in (report.ci_low, report.ci_high))
            count = len(report.heads(behaviour))
            cells.append(
                f"{head} {float(report[behaviour][head]):.2f} [{low:.2f}, {high:.2f}] ({count})"
            )
        scopes = [len(report.heads(scope)) for scope in ("local", "global", "undetermined")]
        rows.append([*cells, " / ".join(map(str, scopes))])
    return f"""## The strongest head of each behaviour

Lift (0 is chance, 1 is perfect) of the strongest head on `repeated_random`, its 95% interval, and
in parentheses how many heads earn the label. Scopes are from natural text.

{table(["model", *LABELS, "local / global / undetermined"], rows)}"""


def cost(options: argparse.Namespace) -> str:
    """Ratios to a bare eager forward of an untouched copy, at one thread and at two."""
    rows, peers = [], []
    for name in [*here(options.models), GPT2_SHAPE]:
        bench = Bench(name, TOKENS)
        runs = runs_at_512(bench, peers=options.peers and not name.startswith("toy"))
        for threads in THREADS:
            times = on_threads(lambda runs=runs: interleaved(runs, options.repetitions), threads)
            others = [run for run in times if not run.endswith(("forward", "classify_heads"))]
            peers = max(peers, others, key=len)
            repeated = f"{REPEATED}classify_heads"
            rows.append(
                [
                    name,
                    str(bench.ids.shape[1]),
                    str(threads),
                    f"{statistics.median(times['forward']):.3f}",
                    f"{ratio(times, 'classify_heads', 'forward'):.2f}",
                    f"{ratio(times, repeated, f'{REPEATED}forward'):.2f}",
                    *(f"{ratio(times, run, 'forward'):.2f}" for run in others),
                ]
            )
    columns = ["model", "tokens", "threads", "forward s", "classify_heads", "repeated ids", *peers]
    rows = [[*row, *[""] * (len(columns) - len(row))] for row in rows]
    return f"""## Cost

One sequence. `classify_heads` measures all behaviours, intervals included: on natural text, and, as
`repeated ids`, on random ids given twice, where it finds out what the heads that match a prefix do
to the logits too.
Each run as a ratio to a bare eager forward pass of an untouched Hugging Face copy of the model over
the same ids (no hook, no unembedding): medians of {options.repetitions} interleaved rounds of
processor time, without the first, in which what depends on the weights alone is made. Seconds are
of the machine that ran it; the ratio is what to compare. A ratio under 1 is possible: attention in
blocks leaves out what is masked. `{GPT2_SHAPE}` is GPT-2's config with random weights. The bundled
models are so small that fixed costs outweigh their forward pass.

{table(columns, rows)}"""


def defaults(options: argparse.Namespace) -> str:
    """What the standard protocol and `confirm_heads` take, in bare forward passes over its ids."""
    rows = []
    for name in here(options.models):
        bench = Bench(name, TOKENS)
        times = interleaved(runs_by_default(bench), 1)
        rows.append(
            [
                name,
                str(sum(ids.numel() for ids in bench.standard)),
                f"{statistics.median(times['forward']):.2f}",
                *(f"{ratio(times, run, 'forward'):.2f}" for run in times if run != "forward"),
            ]
        )
    columns = ["model", "tokens", "forward s", "classify_heads", "confirm_heads"]
    return f"""## Defaults

`classify_heads(model)` and `confirm_heads(model, report)` with their defaults, as ratios to one
bare eager forward pass over the tokens of the standard protocol (32 sequences of random ids given
twice and 64 passages, padding included), in processor time. `confirm_heads` runs the heads of every
label and 100 random sets.

{table(columns, rows)}"""


def long(options: argparse.Namespace) -> str:
    """Memory and time at lengths where a layer's patterns would not fit."""
    rows = []
    names = [name for name in here(options.models) if not name.startswith("toy")]
    for name in names:
        for tokens in options.lengths:
            bench = Bench(name, tokens)
            told = {run: alone(bench, run) for run in ("sdpa", "classify")}
            times = {run: [float(each["seconds"])] for run, each in told.items()}
            if tokens <= MOST_REPEATED:
                times = interleaved(runs_at_length(bench), options.repetitions)
            sdpa, peak = told["sdpa"], told["classify"]
            rows.append(
                [
                    name,
                    str(tokens),
                    f"{statistics.median(times['sdpa']):.1f}",
                    f"{ratio(times, 'classify', 'sdpa'):.2f}",
                    sdpa.get("MiB", "not measured"),
                    peak.get("MiB", "not measured"),
                    peak["induction"],
                    peak["attention"],
                ]
            )
    columns = ["SDPA s", "ratio", "SDPA MiB", "classify MiB", "best induction head", "read in"]
    return f"""## Long contexts

Random ids given twice, float32 weights. Processor time against a bare SDPA forward pass of an
untouched copy: medians of interleaved rounds, beyond {MOST_REPEATED} tokens one run of each in a
process of its own. Peak memory of a whole process, loading included.

{table(["model", "tokens", *columns], rows)}"""


def bfloat16(options: argparse.Namespace) -> str:
    """Whether bfloat16 weights change what a report says."""
    rows = []
    for name in here(options.models):
        full, half = (
            mi.classify_heads(mi.load_model(name, dtype=dtype), progress=False) for dtype in DTYPES
        )
        same = (full.labels == half.labels).all(dim=0)
        change = (full.lift - half.lift).abs().nan_to_num(0)
        ids = torch.randint(100, 999, (1, TOKENS))
        copies = {dtype: Bench(name, TOKENS, dtype).untouched() for dtype in DTYPES}
        times = interleaved(
            {
                dtype: bare(lambda base=base, ids=ids: base(ids, use_cache=False))
                for dtype, base in copies.items()
            },
            3,
        )
        rows.append(
            [
                name,
                f"{float(same.float().mean()):.1%}",
                f"{float(change.max()):.3f}",
                f"{float((full.score - half.score).abs().nan_to_num(0).max()):.3f}",
                f"{ratio(times, 'float32', 'bfloat16'):.1f}",
            ]
        )
    columns = ["heads with the same labels", "largest change of lift", "of a score", "speed-up"]
    return f"""## bfloat16

The standard protocol with bfloat16 weights against float32. Scores accumulate in float32. The
speed-up is of a bare forward pass, where the processor knows bfloat16.

{table(["model", *columns], rows)}"""


def sweep(options: argparse.Namespace) -> str:
    """Memory of a sweep over many prompts."""
    rows = []
    for name in [name for name in here(options.models) if name.startswith("toy")][:1]:
        for prompts in PROMPTS:
            told = alone(Bench(name, prompts), "sweep")
            rows.append([name, str(prompts), told["seconds"], told["MiB"], told["sums"]])
    return f"""## Many prompts

`classify_heads(model, prompts, resume=FILE)` on parts of passages of 10 to 80 tokens, all standard
behaviours, each sweep in a process of its own: peak memory of the process, loading included, and
the file that an interrupted sweep goes on from. Of a prompt stay its ids, its eligible queries and
its sums, 6 KB here; a hundred prompts are two batches, too few for the allocator to settle.

{table(["model", "prompts", "processor s", "peak MiB", "file MiB"], rows)}"""


SECTIONS: dict[str, Callable[[argparse.Namespace], str]] = {
    "found": found,
    "cost": cost,
    "defaults": defaults,
    "long": long,
    "bfloat16": bfloat16,
    "sweep": sweep,
}


def here(names: list[str]) -> list[str]:
    """The models that can be loaded here."""
    loadable = []
    for name in names:
        try:
            mi.load_model(name)
        except ModelLoadError as error:
            print(f"{name} left out: {error}")
        else:
            loadable.append(name)
    return loadable


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
