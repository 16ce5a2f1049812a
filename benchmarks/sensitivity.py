"""What scoring every weight costs, against a bare forward and backward pass over the same batches.

python benchmarks/sensitivity.py                                          a bundled model
python benchmarks/sensitivity.py --model smollm2-135m-instruct            100 short texts

Scoring is `score_weights` by grad×weight over all attention and MLP matrices, and the exact global
top 500 of it. Runs are interleaved in one process, the first of each on a few texts and not
counted; figures are medians, times as ratios. Memory is the peak resident set of each run above
what the loaded model holds (Linux only). Then twenty random controls at k=100, in evaluations.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import mi_toolkit as mi
from mi_toolkit.core.provenance import installed_versions
from mi_toolkit.core.stimuli import evaluation_passages, loss_batch
from mi_toolkit.core.tokens import TokenBatch
from mi_toolkit.weights.calibration import loss, shares, values
from mi_toolkit.weights.evaluation import qualities
from mi_toolkit.weights.parameters import select, weight_matrices

BATCH_SIZE = 8
TOP = 500
CONTROL_TEXTS = 8


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="toy-gpt2")
    parser.add_argument("--texts", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    model = mi.load_model(options.model)
    batch = loss_batch(
        model, list(evaluation_passages()[: options.texts]), max_length=options.tokens
    )
    matrices = select(weight_matrices(model))
    versions = ", ".join(f"{name} {version}" for name, version in installed_versions().items())
    print(f"{versions}, {torch.get_num_threads()} threads")
    n_weights, n_tokens = sum(matrix.size for matrix in matrices), int(batch.lengths.sum())
    print(f"{options.model}: {n_weights:,} weights, {len(batch)} texts, {n_tokens:,} tokens")
    largest = max(matrix.size for matrix in matrices) * 4 / 2**20
    print(f"gradients {n_weights * 4 / 2**20:.0f} MiB, largest matrix {largest:.1f} MiB")
    for run in RUNS.values():
        run(model, batch.part(0, BATCH_SIZE))
    times: dict[str, list[float]] = {name: [] for name in RUNS}
    peaks: dict[str, list[float]] = {name: [] for name in RUNS}
    before = resident()
    for _ in range(options.repetitions):
        for name, run in RUNS.items():
            seconds, peak = measured(lambda run=run: run(model, batch))
            times[name].append(seconds)
            peaks[name].append(peak - before)
            print(f"{name}: {seconds:.1f} s, {peak - before:.0f} MiB", flush=True)
    ratio = statistics.median(s / b for b, s in zip(times["bare"], times["scored"], strict=True))
    extra = statistics.median(s - b for b, s in zip(peaks["bare"], peaks["scored"], strict=True))
    print(f"scored / bare: {ratio:.3f}; peak memory {extra:+.0f} MiB of the bare pass'")
    controls(model, batch.part(0, CONTROL_TEXTS))


def controls(model: Any, batch: TokenBatch) -> None:
    """Twenty random controls at k=100, against bare evaluations of the same texts."""
    scores = mi.score_weights(model, batch, "magnitude")
    start = time.perf_counter()
    for _ in range(2):
        qualities(model, batch, [], batch_size=BATCH_SIZE, progress=False)
    one = (time.perf_counter() - start) / 2
    start = time.perf_counter()
    mi.weights.perturbation_test(model, scores, batch, k=[100], controls=["random"], progress=False)
    took = time.perf_counter() - start
    print(
        f"unchanged model, top and 20 random controls at k=100: {took / one:.1f} evaluations of "
        f"{one:.2f} s each"
    )


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


def measured(run: Callable[[], None]) -> tuple[float, float]:
    """Seconds and peak resident MiB of a run."""
    resident()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    start = time.perf_counter()
    run()
    return time.perf_counter() - start, _status("VmHWM")


def resident() -> float:
    """Resident MiB, after what is free has gone back to the system."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return _status("VmRSS")


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


if __name__ == "__main__":
    main()
