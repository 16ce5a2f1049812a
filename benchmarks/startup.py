"""What it takes until a command answers, in processor seconds and against its own imports.

    python benchmarks/startup.py
    python benchmarks/startup.py --sections help classify --rounds 5

Every run is a process of its own (user and system time, all threads), or, where the cost of a start
is none of it, the part of one that it prints itself. Runs take turns, so that what else the machine
does slows all of them; a ratio is taken within a round, and the median over the rounds counts. The
allowance is in seconds of a quiet machine, on which `IMPORTS` takes `QUIET`: on another one, or a
busy one, it grows as `IMPORTS` does, so that the last column stays the same. Each process has one
thread (`--threads`): several that wait for a core spin, which counts as processor time.

To add a row: a section is a function that gives runs, and stands in `SECTIONS`.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from mi_toolkit.core.provenance import installed_versions

Seconds = Mapping[str, float]
"""Processor seconds of each run of a round, by its name."""

IMPORTS = "import torch, transformers, transformer_lens"
PASSES = "forward passes of classify"
QUIET = 4.6
"""Processor seconds of `IMPORTS` on the machine that the allowances are said of."""

PYTHON = [sys.executable, "-c"]
COMMAND = [sys.executable, "-m", "mi_toolkit"]
ITSELF = [sys.executable, __file__, "--part"]
COMMANDS = [
    *("classify", "confirm", "attribute", "ablate", "view", "generate", "trace", "compare"),
    *("sweep", "sweep-run", "dynamics", "stimuli", "atlas", "record", "activations info"),
    "sensitivity",
    *("sensitivity compare", "super-weights", "models", "describe", "plan", "verify", "app"),
]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One line of the table."""

    name: str
    command: list[str]
    """What is run. A line `= seconds: 1.23` of its output counts instead of the process' time."""

    allowed: Callable[[Seconds], float] | None = None
    """How many seconds it may take, by what the others took in the same round; None: as it is."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of torch, in each process")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(f"= seconds: {PARTS[options.part]():.3f}")
        return
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    versions = ", ".join(f"{name} {version}" for name, version in installed_versions().items())
    print(f"{versions}, threads: {options.threads}\n", flush=True)
    runs = {IMPORTS: Run(name=IMPORTS, command=[*PYTHON, IMPORTS])}
    for section in options.sections:
        runs |= {run.name: run for run in SECTIONS[section]()}
    show(runs, [{name: seconds(run) for name, run in runs.items()} for _ in range(options.rounds)])


def show(runs: Mapping[str, Run], rounds: list[Seconds]) -> None:
    """The table: each run's median over the rounds, and against what it may take."""
    print("| run | processor s | of the imports | allowed s | of the allowance |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, run in runs.items():
        taken = statistics.median(each[name] for each in rounds)
        of_imports = statistics.median(each[name] / each[IMPORTS] for each in rounds)
        row = [f"`{name}`", f"{taken:.2f}", f"{of_imports:.2f}"]
        if run.allowed is not None:
            allowances = [run.allowed(each) for each in rounds]
            shares = [each[name] / own for each, own in zip(rounds, allowances, strict=True)]
            row += [f"{statistics.median(allowances):.2f}", f"{statistics.median(shares):.2f}"]
        print(f"| {' | '.join(row + [''] * (5 - len(row)))} |")


def seconds(run: Run) -> float:
    """Processor time of one run."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(run.command, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(".", end="", file=sys.stderr, flush=True)
    said = [line for line in done.stdout.splitlines() if line.startswith("= seconds: ")]
    if said:
        return float(said[-1].removeprefix("= seconds: "))
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def quiet(limit: float) -> Callable[[Seconds], float]:
    """So many seconds of a quiet machine."""
    return lambda others: limit * others[IMPORTS] / QUIET


def help_runs() -> list[Run]:
    """Help, and the package's own import."""
    helps = [("--help", []), *((f"{name} --help", name.split()) for name in COMMANDS)]
    return [
        Run(name="import mi_toolkit", command=[*PYTHON, "import mi_toolkit"], allowed=quiet(0.1)),
        *(
            Run(name=name, command=[*COMMAND, *words, "--help"], allowed=quiet(0.4))
            for name, words in helps
        ),
    ]


def classify_runs() -> list[Run]:
    """A bundled model classified by the standard protocol."""
    return [
        Run(name=PASSES, command=[*ITSELF, "passes"]),
        Run(
            name="classify",
            command=[*COMMAND, "classify"],
            allowed=lambda others: 1.3 * others[IMPORTS] + others[PASSES],
        ),
    ]


def sensitivity_runs() -> list[Run]:
    """Weights scored and tested: a quick run, and the default one."""
    fast = "sensitivity --model toy-gpt2 --topk 20 --eval-limit 5 --fast-perturbation"
    return [
        Run(name=fast, command=[*COMMAND, *fast.split()], allowed=quiet(9.0)),
        Run(name="sensitivity", command=[*COMMAND, "sensitivity"], allowed=quiet(25.0)),
    ]


def smollm2_runs() -> list[Run]:
    """A real model: what long jobs take in bare passes, and its file in plain folders."""
    rows = [
        ("search text, one pass", None),
        ("find_super_weights", lambda others: 60 * others["search text, one pass"]),
        ("six tokens, forward and backward", None),
        ("attribute", lambda others: 120 * others["six tokens, forward and backward"]),
        ("load a folder", None),
        ("load a GGUF file again", lambda others: 1.1 * others["load a folder"]),
    ]
    return [Run(name=name, command=[*ITSELF, name], allowed=allowed) for name, allowed in rows]


SECTIONS: dict[str, Callable[[], list[Run]]] = {
    "help": help_runs,
    "classify": classify_runs,
    "sensitivity": sensitivity_runs,
    "smollm2": smollm2_runs,
}
"""The sections of the table, in order."""


def passes_of_classify() -> float:
    """The standard stimuli once through Hugging Face's own model, in batches as `classify` has."""
    # Imported here: the other runs of this file start without them.
    import torch
    from transformers import AutoModelForCausalLM

    import mi_toolkit as mi
    from mi_toolkit.core.stimuli import natural, repeated_random
    from mi_toolkit.models.sources import find_source

    model = mi.load_model("toy-gpt2")
    plain: Any = AutoModelForCausalLM.from_pretrained(
        find_source("toy-gpt2").location, dtype=torch.float32, attn_implementation="eager"
    )
    base = plain.eval().base_model
    batches = [
        stimulus.part(start, min(start + 32, len(stimulus))).ids
        for stimulus in (repeated_random(model), natural(model))
        for start in range(0, len(stimulus), 32)
    ]
    with torch.no_grad():
        begun = time.process_time()
        for ids in batches:
            base(ids, use_cache=False)
        return time.process_time() - begun


def of_smollm2(part: str) -> float:
    """Processor seconds of one part, with the model loaded, or of loading it."""
    import torch

    import mi_toolkit as mi
    from mi_toolkit.core.stimuli import evaluation_passages, halves, loss_batch
    from mi_toolkit.models.gguf_cache import converted
    from mi_toolkit.models.sources import find_source

    name, prompt = "smollm2-135m-instruct", "The capital of France is"
    model: Any = mi.load_model(name)  # which keeps what it converted
    folder = converted(find_source(name), torch.float32).location
    ids = model.to_tokens(prompt + " the", prepend_bos=False)
    search = loss_batch(model, halves(evaluation_passages())[0][:4])
    model(ids)  # a bridge hooks itself in its first run

    def there_and_back() -> None:
        embedded = model.original_model.get_input_embeddings()(ids).requires_grad_()
        model.original_model(inputs_embeds=embedded).logits[0, -1].max().backward()

    def one_pass() -> None:
        with torch.no_grad():
            model(search.ids)

    parts: dict[str, Callable[[], object]] = {
        "search text, one pass": one_pass,
        "find_super_weights": lambda: mi.find_super_weights(model, progress=False),
        "six tokens, forward and backward": there_and_back,
        "attribute": lambda: mi.attribute(model, prompt, " Paris", progress=False),
        "load a folder": lambda: mi.load_model(folder),
        "load a GGUF file again": lambda: mi.load_model(name),
    }
    begun = time.process_time()
    parts[part]()
    return time.process_time() - begun


PARTS: dict[str, Callable[[], float]] = {
    "passes": passes_of_classify,
    **{run.name: partial(of_smollm2, run.name) for run in smollm2_runs()},
}
"""What a process of this file measures in itself, without its start."""


if __name__ == "__main__":
    main()
