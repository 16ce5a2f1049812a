"""What interventions cost, against bare runs of the same model.

A sweep over every head, on one prompt, is set next to as many bare forward passes as there are
heads: of the hooked model with no hook, and of Hugging Face's own. Times are medians of interleaved
runs.

    python benchmarks/interventions.py --model smollm2-135m-instruct --tokens 32
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoModelForCausalLM

import mi_toolkit as mi
from mi_toolkit.core.model import HookedModel, uncached
from mi_toolkit.core.provenance import installed_versions
from mi_toolkit.core.stimuli import evaluation_passages
from mi_toolkit.core.tokens import tokenise
from mi_toolkit.models.sources import find_source

BARE_IN_A_ROW = 10


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="toy-gpt2")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--how", nargs="+", default=["zero", "mean"])
    options = parser.parse_args()
    versions = ", ".join(f"{name} {version}" for name, version in installed_versions().items())
    print(f"{versions}, {torch.get_num_threads()} threads", flush=True)
    model, plain = mi.load_model(options.model), hugging_face(options.model)
    ids = prompt_ids(model, options.tokens)
    n_heads = model.cfg.n_layers * model.cfg.n_heads
    print(f"{options.model}: {n_heads} heads, a prompt of {len(ids)} tokens", flush=True)
    sweep_cost(model, plain, ids, n_heads, options.how, options.repetitions)


def prompt_ids(model: HookedModel, n_tokens: int) -> torch.Tensor:
    """The first tokens of a passage."""
    ids = tokenise(model, evaluation_passages()[0]).sequence(0)
    if len(ids) < n_tokens:
        raise SystemExit(f"The passage has {len(ids)} tokens: ask for --tokens {len(ids)} at most.")
    return ids[:n_tokens]


def hugging_face(name: str) -> Any:
    """The same weights with no hook anywhere near."""
    source = find_source(name)
    gguf = {"gguf_file": source.gguf_file} if source.gguf_file else {}
    return AutoModelForCausalLM.from_pretrained(
        source.location, dtype=torch.float32, attn_implementation="eager", **gguf
    ).eval()


def sweep_cost(
    model: HookedModel,
    plain: Any,
    ids: torch.Tensor,
    n_heads: int,
    kinds: list[str],
    repetitions: int,
) -> None:
    """A sweep next to as many bare runs as there are heads."""
    batch = ids[None]

    def bare() -> None:
        model(batch, **uncached(model))

    def bare_plain() -> None:
        plain(batch, use_cache=False)

    runs: dict[str, Callable[[], object]] = {
        "bare, hooked model": lambda: [bare() for _ in range(BARE_IN_A_ROW)],
        "bare, Hugging Face": lambda: [bare_plain() for _ in range(BARE_IN_A_ROW)],
    }
    for how in kinds:
        # A given reference: over the 64 natural passages the means alone take as long as a sweep.
        reference = ids if how in ("mean", "resample") else None
        runs[f"sweep, {how}"] = lambda how=how, reference=reference: mi.ablation_sweep(
            model, ids, how=how, reference=reference, progress=False
        )
    times: dict[str, list[float]] = {name: [] for name in runs}
    with torch.no_grad():
        bare(), bare_plain()
        for _ in range(repetitions):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - start)
    per_run = {
        name: statistics.median(taken) / BARE_IN_A_ROW
        for name, taken in times.items()
        if name.startswith("bare")
    }
    for name, seconds in per_run.items():
        print(f"{name}: {seconds * 1000:.0f} ms a run")
    for name, taken in times.items():
        if name.startswith("sweep"):
            seconds = statistics.median(taken)
            ratios = [f"{seconds / n_heads / each:.2f} × {of}" for of, each in per_run.items()]
            print(f"{name}: {seconds:.1f} s, {seconds / n_heads * 1000:.0f} ms a head")
            print(f"  of {n_heads} runs: {'; '.join(ratios)}", flush=True)


if __name__ == "__main__":
    main()
