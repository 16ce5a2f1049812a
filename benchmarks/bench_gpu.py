"""What to measure where there is a GPU: time, memory, and whether figures are those of the CPU.

Each job on each model and dtype: wall seconds with the device's queue emptied before and after, as
a ratio to bare forward passes over the texts of the standard protocol; the most memory of the
device that tensors took, the model included, next to what `mi.plan` says of the whole process; and
how far the figures lie from the same job's on the CPU.

    python benchmarks/bench_gpu.py                  measure on the accelerator that is here
    python benchmarks/bench_gpu.py --device cpu     run all of it without one, times apart
    python benchmarks/bench_gpu.py --list           say what would be measured

Without an accelerator it says so, lists what there is to measure, and ends.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

import mi_toolkit as mi
from mi_toolkit.core.errors import MIToolkitError
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.stimuli import STANDARD_STIMULI, STIMULI, passages

MODELS = ["toy-gpt2", "toy-qwen2", "smollm2-135m-instruct"]
DTYPES = ["float32", "bfloat16"]
BATCH = 32
REPETITIONS = 5
PROMPT = "When Mary and John went to the store, John gave a drink to"
Job = Callable[[HookedModel], Any]


def main() -> None:
    """Measure and print, or say what there is to measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--device", help="cuda, cuda:1, mps, …; the first that is here without it")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument("--list", action="store_true", help="say what would be measured")
    options = parser.parse_args()
    device = options.device or first_accelerator()
    if options.list or device is None:
        print("\n".join(listed(options)))
        if not options.list:
            sys.exit("No accelerator is here: nothing was measured.")
        return
    print(f"On {name_of(device)}, torch {torch.__version__}; medians of {options.repetitions}.\n")
    header = ["model", "dtype", "job", "seconds", "to a forward", "MiB", "planned", "off the CPU"]
    print(line(header), line(["---"] * len(header)), sep="\n")
    for name in options.models:
        for dtype in options.dtypes:
            for row in measured(name, dtype, device, options):
                print(line([name, dtype, *row]), flush=True)


def first_accelerator() -> str | None:
    """The device of this machine that is no CPU."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return None if found is None else found.type


def name_of(device: str) -> str:
    """What the device calls itself."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def listed(options: argparse.Namespace) -> Iterator[str]:
    """What there is to measure, a line each."""
    for name in options.models:
        for dtype in options.dtypes:
            for job in options.jobs:
                yield f"{name}, {dtype}: {job}"


def measured(
    name: str, dtype: str, device: str, options: argparse.Namespace
) -> Iterator[list[str]]:
    """The cells of each job of a model."""
    here = mi.load_model(name, dtype=dtype)
    there = mi.load_model(name, dtype=dtype, device=device)
    batches = standard_batches(there)
    forward = seconds(lambda: bare(there, batches), device, options.repetitions)
    for job in options.jobs:
        forget_peak(device)
        try:
            took = seconds(partial(JOBS[job], there), device, options.repetitions)
            figures, wanted = JOBS[job](there), JOBS[job](here)
        except MIToolkitError as error:
            yield [job, str(error).partition("\n")[0], "", "", "", ""]
            continue
        yield [
            job,
            f"{took:.3f}",
            f"{took / forward:.2f}",
            peak_mib(device),
            f"{mi.plan(name, PLANNED[job], dtype=dtype).peak / 2**20:.0f}"
            if job in PLANNED
            else "",
            f"{off(figures, wanted):.1e}",
        ]


def seconds(run: Callable[[], object], device: str, repetitions: int) -> float:
    """The median time of a run, after one that is not counted."""
    taken = []
    for _ in range(repetitions + 1):
        wait(device)
        began = time.perf_counter()
        run()
        wait(device)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


def wait(device: str) -> None:
    """Wait for all that the device was asked."""
    if not device.startswith("cpu"):
        torch.accelerator.synchronize(device)


def forget_peak(device: str) -> None:
    """Begin to watch the memory of the device anew."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)


def peak_mib(device: str) -> str:
    """The most that tensors took since then; only CUDA tells."""
    if not device.startswith("cuda"):
        return ""
    return f"{torch.cuda.max_memory_allocated(device) / 2**20:.0f}"


def standard_batches(model: HookedModel) -> list[Tensor]:
    """The texts of the standard protocol on the model's device."""
    batches = [STIMULI[name](model, seed=0) for name in STANDARD_STIMULI]
    return [
        batch.part(start, min(start + BATCH, len(batch))).ids.to(model.cfg.device)
        for batch in batches
        for start in range(0, len(batch), BATCH)
    ]


def bare(model: HookedModel, batches: list[Tensor]) -> None:
    """Forward passes of the hooked model, nothing read."""
    with torch.no_grad():
        for ids in batches:
            model(ids, return_type=None)


def off(found: Any, wanted: Any) -> float:
    """The largest difference of a figure, of the largest figure."""
    first, second = (each.detach().cpu().double() for each in (found, wanted))
    largest = second.abs().nan_to_num().max().clamp_min(1e-12)
    return float(((first - second).abs().nan_to_num().max() / largest).item())


def classified(model: HookedModel) -> Tensor:
    """Scores of heads on the standard protocol."""
    return mi.classify_heads(model, progress=False).score


def recorded(model: HookedModel) -> Tensor:
    """The residual stream after each layer."""
    found = mi.record(model, passages()[:8], ["resid_post"], progress=False)
    return torch.cat([values.float().cpu().flatten() for values in found.tensors.values()])


def swept(model: HookedModel) -> Tensor:
    """The effect of each head."""
    return mi.ablation_sweep(model, PROMPT, progress=False).log_prob


def scored(model: HookedModel) -> Tensor:
    """The highest scores of weights."""
    scores = mi.score_weights(model, passages()[:8], progress=False)
    return torch.tensor(scores.top(100)["score"].to_numpy())


def attributed(model: HookedModel) -> Tensor:
    """Integrated gradients of a prompt's tokens."""
    return mi.attribute(model, PROMPT, allow_incomplete=True, progress=False).scores


def written(model: HookedModel) -> Tensor:
    """What the tokens of a continuation are worth."""
    return mi.generate(model, PROMPT, max_new_tokens=16, progress=False).sequences[0].log_probs


JOBS: dict[str, Job] = {
    "classify_heads": classified,
    "record": recorded,
    "ablation_sweep": swept,
    "score_weights": scored,
    "attribute": attributed,
    "generate": written,
}
PLANNED = {
    "classify_heads": "classify",
    "record": "record",
    "ablation_sweep": "ablation_sweep",
    "score_weights": "score_weights",
}


def line(cells: list[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
