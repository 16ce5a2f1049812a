"""Jobs with less memory than they take: `python short_of_memory.py FOLDER JOB …`.

This process imports all and loads the model once. Each job is run in a child that it forks, whose
address space may grow by ROOM (`ulimit -v`); then, in the same child, with little to do. A line of
JSON says what came of each.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

import mi_toolkit as mi
from mi_toolkit.core.errors import OutOfMemoryError
from mi_toolkit.sweeps.jobs import Job
from tests.models_here import loaded

ROOM = 48 * 2**20
LONG, MANY = 400, 400

Ids = Any
Run = Callable[[Any, Path, int, int], Any]
"""With the model, a folder, how many sequences, and of how many tokens."""


def ids(n: int, length: int, seed: int = 0) -> Ids:
    """So many sequences, all of them different."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(5, 1000, (n, length), generator=generator)


def texts(n: int, length: int) -> list[list[int]]:
    return ids(n, length).tolist()  # type: ignore[no-any-return]


def swept(model: Any, at: Path, n: int, length: int) -> Any:
    arguments = {"prompt": texts(n, length), "batch_size": n}
    found = mi.sweep([Job(model="toy-gpt2", task="classify", arguments=arguments)], at / str(n))
    if found.failed:
        raise OutOfMemoryError(*found.failed.values())


JOBS: Mapping[str, tuple[Run, str]] = {
    "record": (
        lambda model, _, n, length: mi.record(model, ids(n, length), "resid_post", batch_size=n),
        "batch_size=1 or positions='last' or fewer or shorter texts",
    ),
    "record_to_disk": (
        lambda model, at, n, length: mi.record_to_disk(
            model, texts(n, length), "z", at / f"store{n}", batch_size=n
        ),
        "batch_size=1",
    ),
    "activation_statistics": (
        lambda model, _, n, length: mi.activation_statistics(
            model, texts(n, length), "mlp_post", batch_size=n
        ),
        "batch_size=1",
    ),
    "classify_heads": (
        lambda model, _, n, length: mi.classify_heads(model, texts(n, length), batch_size=n),
        "batch_size=1",
    ),
    "profile_heads": (
        lambda model, _, n, length: mi.cards.profile_heads(model, texts(n, length), batch_size=n),
        "batch_size=1",
    ),
    "score_weights": (
        lambda model, _, n, length: mi.score_weights(
            model, ids(n, length), batch_size=n, max_length=length
        ),
        "max_length below",
    ),
    "generate": (
        lambda model, _, n, length: mi.generate(
            model, ids(1, length), max_new_tokens=2, num_beams=min(n, 100)
        ),
        "num_beams below 100",
    ),
    "activation_patching": (
        lambda model, _, n, length: mi.activation_patching(
            model, ids(n, length), ids(n, length, seed=1), target=7, what="resid_pre"
        ),
        "fewer or shorter texts",
    ),
    "attribute": (
        lambda model, _, n, length: mi.attribute(model, ids(1, length), 7, batch_size=n),
        "batch_size=1",
    ),
    "sweep": (swept, "take bfloat16, load={'layers_at_a_time': 1}"),
}
"""What is run, and the way out that it has to name. What runs one sequence at a time has room:
`confirm_heads`, `ablation_effect`."""


def outcome(run: Run, model: Any, at: Path) -> dict[str, object]:
    """What a job says that has too little memory, and whether it works with little to do."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (mapped + ROOM, resource.RLIM_INFINITY))
    try:
        run(model, at, MANY, LONG)
        return {"message": None}
    except OutOfMemoryError as error:
        message = str(error)
    if run is not swept:  # a worker wants a GiB, whatever it is to do
        run(model, at, 1, 12)
    return {"message": message}


def main(folder: str, *names: str) -> None:
    """Try the jobs one after the other."""
    model = loaded("toy-gpt2")
    for name in names:
        run, _ = JOBS[name]
        if not Path(folder, name).exists():
            Path(folder, name).mkdir()
            run(model, Path(folder, name) / "warm", 1, 12)  # imports
        sys.stdout.flush()
        if child := os.fork():
            os.waitpid(child, 0)
            continue
        try:
            found = outcome(run, model, Path(folder, name))
        except BaseException:
            found = {"message": traceback.format_exc()}
        os.write(1, f"{json.dumps({'job': name, **found})}\n".encode())
        os._exit(0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
