"""What `classify_heads` finds and what it costs, against a bare forward pass.

Times are ratios of interleaved runs in one process, medians; memory is the peak resident set above
what the loaded model holds (Linux only).

    python benchmarks/heads.py                              print both tables
    python benchmarks/heads.py --output docs/benchmarks.md  and write them there
"""

from __future__ import annotations

import argparse
import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

import mi_toolkit as mi
from mi_toolkit.errors import ModelLoadError
from mi_toolkit.files import written_whole
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.provenance import installed_versions

MODELS = ["toy-gpt2", "toy-gpt-neo", "toy-pythia", "toy-opt", "toy-qwen2", "smollm2-135m-instruct"]
LABELS = ["previous_token", "current_token", "first_token", "duplicate_token", "induction"]
REPETITIONS = 9
TOKENS = 512


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="a Markdown file to write")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--peak", nargs=2, metavar=("MODEL", "RUN"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        name, run = options.peak
        print(peak_above(RUNS[run](mi.load_model(name))))
        return
    best, cost = [], []
    for name in options.models:
        try:
            model = mi.load_model(name)
        except ModelLoadError as error:
            print(f"{name} left out: {error}")
            continue
        best.append(best_heads(name, model))
        cost.append([*cost_of(name, model), *(peak_in_own_process(name, run) for run in RUNS)])
        print(best[-1], cost[-1], sep="\n", flush=True)
    page = render(best, cost)
    print(page)
    if options.output:
        with written_whole(options.output) as draft:
            draft.write_text(page, encoding="utf-8")


def best_heads(name: str, model: HookedModel) -> list[str]:
    """The strongest head per behaviour on its home stimulus, with its interval, and the scopes."""
    report = mi.classify_heads(model)
    cells = [name]
    for behaviour in LABELS:
        head = report.strongest(behaviour)
        row = report.index(behaviour)
        low, high = (float(ends[row][head]) for ends in (report.ci_low, report.ci_high))
        count = len(report.heads(behaviour))
        cells.append(
            f"{head} {float(report[behaviour][head]):.2f} [{low:.2f}, {high:.2f}] ({count})"
        )
    scopes = [len(report.heads(scope)) for scope in ("local", "global", "undetermined")]
    return [*cells, " / ".join(map(str, scopes))]


def random_ids(model: HookedModel) -> torch.Tensor:
    """One sequence of random ids, as long as the context allows up to `TOKENS`."""
    length = min(TOKENS, model.cfg.n_ctx)
    generator = torch.Generator().manual_seed(0)
    return torch.randint(model.cfg.d_vocab // 2, (1, length), generator=generator)


def forward(model: HookedModel) -> Callable[[], None]:
    """A bare eager forward pass without the unembedding."""
    ids, base = random_ids(model), model.original_model.base_model  # type: ignore[attr-defined]

    def run() -> None:
        with torch.no_grad():
            base(ids, attention_mask=torch.ones_like(ids))

    return run


def classify(model: HookedModel) -> Callable[[], None]:
    """`classify_heads` with all behaviours on the same ids."""
    ids = random_ids(model)
    return lambda: void(mi.classify_heads(model, ids, progress=False))


def void(_: object) -> None:
    """Drop a result."""


RUNS = {"forward": forward, "classify": classify}


def cost_of(name: str, model: HookedModel) -> list[str]:
    """Seconds of both runs and the median of their ratios: interleaved, without the first."""
    runs = {kind: make(model) for kind, make in RUNS.items()}
    times: dict[str, list[float]] = {kind: [] for kind in runs}
    for _ in range(REPETITIONS + 1):
        for kind, run in runs.items():
            times[kind].append(seconds(run))
    bare, scored = times["forward"][1:], times["classify"][1:]
    return [
        name,
        str(random_ids(model).shape[1]),
        f"{statistics.median(bare):.3f}",
        f"{statistics.median(scored):.3f}",
        f"{statistics.median(c / b for b, c in zip(bare, scored, strict=True)):.2f}",
    ]


def peak_in_own_process(name: str, run: str) -> str:
    """`peak_above` of one run in a process that has done nothing but load the model."""
    command = [sys.executable, __file__, "--peak", name, run]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def seconds(run: Callable[[], None]) -> float:
    """How long one run takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def peak_above(run: Callable[[], None]) -> str:
    """Peak resident memory of a run above where it started, in MiB."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        return "not measured"

    def field(name: str) -> int:
        line = next(line for line in status.read_text().splitlines() if line.startswith(name))
        return int(line.split()[1])

    gc.collect()
    reset.write_text("5")
    before = field("VmRSS")
    run()
    return f"{(field('VmHWM') - before) / 1024:.0f}"


def render(best: list[list[str]], cost: list[list[str]]) -> str:
    """The page."""
    versions = ", ".join(f"{name} {version}" for name, version in installed_versions().items())
    costs = ["forward s", "classify s", "ratio", "forward MiB", "classify MiB"]
    return f"""# Benchmarks

Written by `benchmarks/heads.py` with {versions}, {torch.get_num_threads()} threads.

## The strongest head of each behaviour

Lift (0 is chance, 1 is perfect) of the strongest head on `repeated_random`, its 95% interval, and
in parentheses how many heads earn the label. Scopes are from natural text.

{table(["model", *LABELS, "local / global / undetermined"], best)}

## Cost

`classify_heads` with all behaviours on one sequence, against a bare eager forward of the same ids
(no unembedding): medians of {REPETITIONS} interleaved runs. Seconds are of the machine that ran it;
the ratio is what to compare. The bundled models are so small that fixed costs (the tokens' target
keys, the bootstrap) outweigh their forward pass. Peak memory is in MiB above the loaded model, each
run in a process of its own.

{table(["model", "tokens", *costs], cost)}
"""


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
