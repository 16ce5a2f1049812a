"""What scoring every weight costs, against a bare forward and backward pass over the same batches.

Scoring is `score_weights` by grad×weight over all attention and MLP matrices, and the exact global
top 500 of it. Times are ratios of interleaved runs in one process, medians; memory is the peak
resident set above what the loaded model holds, each run in a process of its own (Linux only).

    python benchmarks/sensitivity.py --model smollm2-135m-instruct --texts 100
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
from typing import Any

import torch

import mi_toolkit as mi
from mi_toolkit.prompts.evaluation import evaluation_passages, loss_batch
from mi_toolkit.prompts.tokens import TokenBatch
from mi_toolkit.provenance import installed_versions
from mi_toolkit.sensitivity.objective import loss, shares, values
from mi_toolkit.sensitivity.parameters import weight_matrices
from mi_toolkit.sensitivity.scope import select

BATCH_SIZE = 8
TOP = 500


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="toy-gpt2")
    parser.add_argument("--texts", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--peak", choices=RUNS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    model = mi.load_model(options.model)
    texts = (evaluation_passages() * 2)[: options.texts]
    batch = loss_batch(model, list(texts), max_length=options.tokens)
    if options.peak:
        print(f"peak {peak_above(lambda: RUNS[options.peak](model, batch)):.0f}")
        return
    times: dict[str, list[float]] = {name: [] for name in RUNS}
    for _ in range(options.repetitions + 1):
        for name, run in RUNS.items():
            start = time.perf_counter()
            run(model, batch)
            times[name].append(time.perf_counter() - start)
    bare, scored = times["bare"][1:], times["scored"][1:]
    ratio = statistics.median(s / b for b, s in zip(bare, scored, strict=True))
    versions = ", ".join(f"{name} {version}" for name, version in installed_versions().items())
    n_weights = sum(matrix.size for matrix in select(weight_matrices(model)))
    print(f"{versions}, {torch.get_num_threads()} threads")
    print(f"{options.model}: {n_weights:,} weights, {len(batch)} texts of {options.tokens} tokens")
    print(f"bare {statistics.median(bare):.2f} s, scored {statistics.median(scored):.2f} s")
    print(f"ratio {ratio:.2f}")
    for name in RUNS:
        own = [sys.executable, __file__, "--model", options.model, "--texts", str(options.texts)]
        own += ["--tokens", str(options.tokens), "--peak", name]
        done = subprocess.run(own, capture_output=True, text=True, check=True)
        print(f"{name}: {done.stdout.splitlines()[-1]} MiB above the loaded model")


def bare(model: Any, batch: TokenBatch) -> None:
    """Forward and backward over the batches, gradients left in `.grad`, then dropped."""
    matrices = select(weight_matrices(model))
    parameters = [live.parameter for matrix in matrices for live in matrix.live]
    share = shares(loss, batch).float()
    for parameter in parameters:
        parameter.requires_grad_(True)  # noqa: FBT003
    for start in range(0, len(batch), BATCH_SIZE):
        part = batch.part(start, min(start + BATCH_SIZE, len(batch)))
        (values(model, loss, part) * share[start : start + len(part)]).sum().backward()
    for parameter in parameters:
        parameter.requires_grad_(False)  # noqa: FBT003
        parameter.grad = None


def scored(model: Any, batch: TokenBatch) -> None:
    """Every weight scored, and the highest of all in order."""
    mi.score_weights(model, batch, batch_size=BATCH_SIZE).ranking(TOP)


RUNS: dict[str, Callable[[Any, TokenBatch], None]] = {"bare": bare, "scored": scored}


def peak_above(run: Callable[[], None]) -> float:
    """Peak resident memory of a run above where it started, in MiB."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def field(name: str) -> int:
        line = next(line for line in status.read_text().splitlines() if line.startswith(name))
        return int(line.split()[1])

    gc.collect()
    reset.write_text("5")
    before = field("VmRSS")
    run()
    return (field("VmHWM") - before) / 1024


if __name__ == "__main__":
    main()
