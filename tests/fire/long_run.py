"""One job on many prompts: `python long_run.py JOB N EARLY`.

What the process holds after EARLY prompts and at the end, as a line of JSON: resident bytes, open
files, threads.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import psutil
import torch

import mi_toolkit as mi
from mi_toolkit.core.progress import Watcher, watching
from tests.models_here import loaded

BATCH = 50
WORDS = ["the", "cat", "sat", "on", "a", "mat"]


def prompts(n: int) -> Iterator[str]:
    """So many texts of a few tokens, all different."""
    return (f"{' '.join(WORDS[: 2 + i % 4])} {i} {' '.join(WORDS[: 2 + i % 4])}" for i in range(n))


def classification(n: int) -> Any:
    """All behaviours, of all heads."""
    return mi.classify_heads(loaded("toy-gpt2"), list(prompts(n)), batch_size=BATCH)


def recording(n: int) -> Any:
    """One activation of every token, on disk."""
    return mi.record_to_disk(
        loaded("toy-gpt2"), prompts(n), ("z", 0), f"store{n}", batch_size=BATCH, shard_size=5_000
    )


JOBS: Mapping[str, Callable[[int], Any]] = {
    each.__name__: each for each in (classification, recording)
}
COUNTED = {"classification": BATCH, "recording": 1}
"""How many prompts each step of a job's progress is."""


def held() -> dict[str, int]:
    """What this process holds now."""
    own = psutil.Process()
    return {
        "resident": own.memory_info().rss,
        "files": own.num_fds(),
        "threads": own.num_threads(),
    }


class Sampler(Watcher):
    """Looks once, after so many steps."""

    def __init__(self, steps: int) -> None:
        self.steps, self.found = steps, dict[str, int]()

    def report(self, label: str, done: int, total: int | None) -> None:
        """Look."""
        if done >= self.steps and not self.found:
            self.found = held()


def main(job: str, n: str, early: str) -> None:
    """Run the job, and print what was held."""
    JOBS[job](100)  # what is imported once
    sampler = Sampler(int(early) // COUNTED[job])
    with watching(sampler):
        found = JOBS[job](int(n))
        line = {"job": job, "early": sampler.found, "late": held()}
    del found
    sys.stdout.write(f"{json.dumps(line)}\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
