"""What generation under hooks costs, against Hugging Face's own on an unwrapped copy of the model.

Each round runs every kind once, in turn, in one process; the median of the rounds' ratios counts,
so that a slow moment of the machine slows both sides.

    python benchmarks/generation.py
    python benchmarks/generation.py --model toy-gpt2 --rounds 9
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
from mi_toolkit.core.model import HookedModel
from mi_toolkit.models.sources import find_source

PROMPT = "The capital of France is"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    model, plain = mi.load_model(options.model), hugging_face(options.model)
    for beams in options.beams:
        kinds = runs(model, plain, options.tokens, beams)
        seconds = interleaved(kinds, options.rounds)
        bare = seconds["Hugging Face"]
        print(f"{options.model}, {options.tokens} tokens, {beams} beams")
        for kind, taken in seconds.items():
            ratio = statistics.median(a / b for a, b in zip(taken, bare, strict=True))
            print(f"  {kind:28} {statistics.median(taken):.3f} s  {ratio:.2f} ×")


def hugging_face(name: str) -> Any:
    """The same weights without any hook."""
    source = find_source(name)
    gguf = {"gguf_file": source.gguf_file} if source.gguf_file else {}
    return AutoModelForCausalLM.from_pretrained(
        source.location, dtype=torch.float32, attn_implementation="eager", **gguf
    ).eval()


def runs(model: HookedModel, plain: Any, tokens: int, beams: int) -> dict[str, Callable[[], Any]]:
    """What is timed, by name; every run writes as many tokens."""
    ids = mi.generate(model, PROMPT, max_new_tokens=1).prompt_ids[None]

    def bare() -> Any:
        return plain.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            num_beams=beams,
            do_sample=False,
            pad_token_id=0,
        )

    def ours() -> Any:
        return mi.generate(model, ids, max_new_tokens=tokens, num_beams=beams, eos_ids=())

    def ablated() -> Any:
        with mi.ablating(model, ["L0H1", "L2H0", "L3H1"]):
            return ours()

    return {"Hugging Face": bare, "generate": ours, "generate, 3 heads ablated": ablated}


def interleaved(kinds: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each run, after one that does not count."""
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for counted in [False, *[True] * rounds]:
        for kind, run in kinds.items():
            start = time.perf_counter()
            run()
            if counted:
                seconds[kind].append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    main()
