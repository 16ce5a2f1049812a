"""Jobs that are killed at random moments, and go on: `python killed_jobs.py FOLDER SEED N JOB …`.

This process imports all and loads the models once. Each job is run in a child that it forks: once
undisturbed, then N times with SIGKILL at a random share of the time that the undisturbed one took,
each followed by the same call, which is let be. A line of JSON says what came of each.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import torch

import mi_toolkit as mi
from mi_toolkit.sweeps.jobs import Job
from mi_toolkit.weights.study import Settings, run_study
from tests.models_here import loaded
from tests.tiny_models import tiny_model, tiny_tokenizer
from tests.weights.toy_text import TOY_TEXT

SAYS = "the cat sat on the mat, "
TEXTS = [f"Document {n} says {SAYS * (1 + n % 4)}" for n in range(60)]
WORDS = ["one", "two", "three", "four", "five"]
PROMPTS = [" ".join([*WORDS[: 2 + n % 4] * 3, str(n)]) for n in range(60)]
SCORED = Settings(topk=(5,), n_random=1, fidelity=10, max_length=16)
SWEPT = [
    Job(model="toy-gpt2", task="classify", arguments={"prompt": PROMPTS[n : n + 6]}) for n in (0, 6)
]


def record(folder: Path) -> None:
    """A recording on disk, of many shards."""
    names = ["resid_post", ("z", 0)]
    mi.record_to_disk(
        loaded("toy-gpt2"), TEXTS, names, folder / "store", batch_size=2, shard_size=60
    )


def classify(folder: Path) -> None:
    """A classification that keeps its sums in a file."""
    sums = folder / "sums.safetensors"
    report = mi.classify_heads(loaded("toy-gpt2"), PROMPTS, batch_size=2, resume=sums)
    sums.unlink()  # how often it was saved is no result
    report.save(folder / "report.safetensors")


def atlas(folder: Path) -> None:
    """An atlas of two models. The bundled ones, of longer contexts, take ten times as long."""
    mi.head_atlas([str(each) for each in small_models()], folder / "atlas", headvis=True)


@cache
def small_models() -> list[Path]:
    """Two models in folders, of one layer and 32 positions."""
    folders = [Path(kind).absolute() for kind in ("llama", "qwen2")]
    for folder in folders:
        sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 32}
        tiny_model(folder.name, **sizes).save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
    return folders


def sensitivity(folder: Path) -> None:
    """A sensitivity run."""
    run_study(loaded("toy-gpt2"), SCORED, texts=TOY_TEXT[:6], folder=folder / "run", progress=False)


def sweep(folder: Path) -> None:
    """A sweep, of jobs in parts."""
    mi.sweep(SWEPT, folder / "sweep", texts_per_part=3)


JOBS: Mapping[str, Callable[[Path], None]] = {
    each.__name__: each for each in (record, classify, atlas, sensitivity, sweep)
}


def started(job: str, folder: Path) -> int:
    """A child that does the job; its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        folder.mkdir(parents=True, exist_ok=True)
        JOBS[job](folder)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """How a child ended; negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def files(folder: Path) -> dict[str, str]:
    """Every file in a folder, with its digest."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def tried(job: str, folder: Path, seconds: float, whole: Mapping[str, str]) -> dict[str, object]:
    """What comes of one kill after so many seconds, and of the call after it."""
    child = started(job, folder)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    killed = ended(child) == -signal.SIGKILL
    left = files(folder)
    resumed = ended(started(job, folder))
    now = files(folder)
    return {
        "killed": killed,
        "left": len(left),
        "resumed": resumed,
        "different": sorted({*whole, *now} - {n for n in whole if whole[n] == now.get(n)}),
    }


def main(place: str, seed: int, n: int, *jobs: str) -> None:
    """Try the jobs one after the other."""
    for job in jobs:
        # Its own: which jobs are asked for does not decide when one is killed.
        chosen = random.Random(f"{seed} {job}")
        folder = Path(place) / job
        begun = time.monotonic()
        if code := ended(started(job, folder / "whole")):
            sys.exit(f"{job} ended with {code}, undisturbed")
        took = time.monotonic() - begun
        whole = files(folder / "whole")
        for number in range(n):
            seconds = took * chosen.uniform(0.02, 0.95)
            found = tried(job, folder / str(number), seconds, whole)
            line = {"job": job, "took": took, "seconds": seconds, "files": len(whole), **found}
            if not found["killed"]:  # it had ended: the undisturbed one was slow
                took *= 0.8
            sys.stdout.write(f"{json.dumps(line)}\n")
            sys.stdout.flush()
            shutil.rmtree(folder / str(number))


if __name__ == "__main__":
    torch.set_num_threads(1)
    # What a child would else import each for itself.
    mi.view(mi.classify_heads(loaded("toy-gpt2"), "one two one two")).save_png("view.png")
    for each in small_models():
        mi.load_model(each)
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
