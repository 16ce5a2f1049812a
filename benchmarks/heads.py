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
    options = parser.parse_args()
    best, cost = [], []
    for name in options.models:
        try:
            model = mi.load_model(name)
        except ModelLoadError as error:
            print(f"{name} left out: {error}")
            continue
        best.append(best_heads(name, model))
        cost.append(cost_of(name, model))
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
        lift = report[behaviour].nan_to_num(-torch.inf)
        head = mi.Head(*divmod(int(lift.argmax()), lift.shape[1]))
        row = report.index(behaviour)
        low, high = (float(ends[row][head]) for ends in (report.ci_low, report.ci_high))
        count = len(report.heads(behaviour))
        cells.append(f"{head} {float(lift[head]):.2f} [{low:.2f}, {high:.2f}] ({count})")
    scopes = [len(report.heads(scope)) for scope in ("local", "global", "undetermined")]
    return [*cells, " / ".join(map(str, scopes))]


def cost_of(name: str, model: HookedModel) -> list[str]:
    """Time as a ratio to a bare forward of the same ids, and both peaks of memory."""
    length = min(TOKENS, model.cfg.n_ctx)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.cfg.d_vocab // 2, (1, length), generator=generator)
    base = model.original_model.base_model  # type: ignore[attr-defined]

    def bare() -> None:
        with torch.no_grad():
            base(ids, attention_mask=torch.ones_like(ids))

    def classify() -> None:
        mi.classify_heads(model, ids, progress=False)

    runs = {run: [seconds(run) for _ in range(1)] for run in (bare, classify)}
    for _ in range(REPETITIONS):
        for run in (bare, classify):
            runs[run].append(seconds(run))
    ratios = [c / b for b, c in zip(runs[bare][1:], runs[classify][1:], strict=True)]
    return [
        name,
        str(length),
        f"{statistics.median(runs[bare][1:]):.3f}",
        f"{statistics.median(runs[classify][1:]):.3f}",
        f"{statistics.median(ratios):.2f}",
        peak_above(bare),
        peak_above(classify),
    ]


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
    return "\n".join(
        [
            "# Benchmarks",
            "",
            f"Written by `benchmarks/heads.py` with {versions}, "
            f"{torch.get_num_threads()} threads.",
            "",
            "## The strongest head of each behaviour",
            "",
            "Lift (0 is chance, 1 is perfect) of the strongest head on `repeated_random`, its 95%",
            "interval, and in parentheses how many heads earn the label. Scopes from natural text.",
            "",
            table(["model", *LABELS, "local / global / undetermined"], best),
            "",
            "## Cost",
            "",
            f"`classify_heads` with all behaviours on one sequence, against a bare eager forward of",
            f"the same ids (no unembedding): medians of {REPETITIONS} interleaved runs. Seconds are",
            "of the machine that ran it; the ratio is what to compare. Peak memory in MiB above the",
            "loaded model.",
            "",
            table(
                ["model", "tokens", "forward s", "classify s", "ratio", "forward MiB", "classify MiB"],
                cost,
            ),
            "",
        ]
    )


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
