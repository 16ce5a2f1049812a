"""What workers are worth: 200 classifications by two of them, and by one process of two threads.

    python benchmarks/sweep.py
    python benchmarks/sweep.py --jobs 50 --rounds 1

Both have the same total of threads, and take turns. Ray's start is told apart: the cluster's, and
what passes until the first job is done, most of which is Python and torch starting in a worker.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import mi_toolkit as mi
from mi_toolkit.core.progress import Watcher, watching
from mi_toolkit.core.provenance import installed_versions
from mi_toolkit.core.stimuli import passages
from mi_toolkit.models.load import load_model
from mi_toolkit.models.specs import BUNDLED
from mi_toolkit.sweeps.cluster import connected
from mi_toolkit.sweeps.jobs import Job

WORKERS = 2
TEXTS = 16
"""Passages that a job reads."""

SIGNS = 300
"""Of each: no more tokens than that, and the contexts are of 512."""

ALLOWED = 0.6
"""Of one process' time, once the workers are there."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    versions = ", ".join(f"{name} {version}" for name, version in installed_versions().items())
    print(f"{versions}, {options.jobs} jobs, {WORKERS} workers", flush=True)
    jobs = jobs_of(options.jobs)
    for name in BUNDLED:
        load_model(name)  # whatever is slow the first time
    torch.set_num_threads(WORKERS)
    print(
        "| round | one process s | cluster's start s | first job after s | all others s | ratio |"
    )
    print("|---|---|---|---|---|---|")
    ratios = []
    for number in range(options.rounds):
        first, others = seconds(jobs, workers=None, threads=WORKERS)
        alone = first + others
        start = time.perf_counter()
        with connected(None, cpus=WORKERS):
            cluster = time.perf_counter() - start
            first, others = seconds(jobs, workers=WORKERS, threads=1)
        ratios.append(others / (len(jobs) - WORKERS) / (alone / len(jobs)))
        cells = [f"{cell:.1f}" for cell in (alone, cluster, first, others)]
        print(f"| {number + 1} | {' | '.join(cells)} | {ratios[-1]:.2f} |", flush=True)
    print(f"\nmedian {statistics.median(ratios):.2f}; allowed {ALLOWED}")


def jobs_of(n: int) -> list[Job]:
    """Classifications on some passages each, the models in turn."""
    texts, names = [text[:SIGNS] for text in passages()], list(BUNDLED)
    return [
        Job(
            model=names[index % len(names)],
            task="classify",
            arguments={"prompt": [texts[(index + k) % len(texts)] for k in range(TEXTS)],
                       "min_lift": 0.3 + index / 10_000},
        )
        for index in range(n)
    ]  # fmt: skip


def seconds(jobs: Sequence[Job], *, workers: int | None, threads: int) -> tuple[float, float]:
    """Until the first job is done, and from then to the end."""
    done = DoneAt()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, watching(done):
        found = mi.sweep(jobs, Path(folder) / "sweep", workers=workers, threads=threads)
        if found.failed:
            raise RuntimeError(str(found))
    return done.times[0] - start, done.times[-1] - done.times[0]


class DoneAt(Watcher):
    """When each job of a sweep was done."""

    def __init__(self) -> None:
        """Nothing is done yet."""
        self.times: list[float] = []

    def report(self, label: str, done: int, total: int | None) -> None:
        """Note the time, of jobs alone: what a job tracks in this process has other labels."""
        if label == "sweeping":
            self.times.append(time.perf_counter())


if __name__ == "__main__":
    main()
