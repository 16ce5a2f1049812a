"""What watching every head of a model costs, next to the bare forward pass over the same texts.

Each round runs both in turn, in one process; the median of the rounds' ratios counts, so that a
slow moment of the machine slows both sides.

    python benchmarks/cards.py
    python benchmarks/cards.py --model toy-gpt2 --texts 64 --rounds 5 --card L2H0
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

import mi_toolkit as mi
from mi_toolkit.activations.batcher import Batcher, feeding
from mi_toolkit.activations.hooks import DEFAULT_BATCH_SIZE
from mi_toolkit.cards.profile import DEFAULT_LENGTH
from mi_toolkit.core.model import HookedModel, evaluating, uncached
from mi_toolkit.core.stimuli import passages


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--texts", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--card", default=None, help="a head, whose card is timed too")
    options = parser.parse_args()
    model, texts = mi.load_model(options.model), list(passages()[: options.texts])
    bare, watched = [], []
    for _ in range(options.rounds):
        bare.append(seconds(lambda: forward(model, texts)))
        watched.append(seconds(lambda: mi.cards.profile_heads(model, texts)))
    ratio = statistics.median(a / b for a, b in zip(watched, bare, strict=True))
    print(f"{options.model}, {len(texts)} texts, {torch.get_num_threads()} threads")
    print(f"  bare forward     {statistics.median(bare):7.2f} s")
    print(f"  profile_heads    {statistics.median(watched):7.2f} s  {ratio:.2f} ×")
    if options.card:
        profiles = mi.cards.profile_heads(model, texts)
        report = mi.classify_heads(model)
        taken = seconds(lambda: mi.head_card(model, options.card, profiles=profiles, report=report))
        print(f"  card of {options.card:8} {taken:7.2f} s  {taken / statistics.median(bare):.1f} ×")


def forward(model: HookedModel, texts: list[str]) -> None:
    """Run the texts as `profile_heads` feeds them, to the logits."""
    how = feeding(model, None, min(DEFAULT_LENGTH, int(model.cfg.n_ctx)), "split")
    for fed in Batcher(model, texts, how, "text").batches(DEFAULT_BATCH_SIZE):
        with evaluating(model), torch.no_grad():
            model(fed.batch.ids, return_type="logits", **uncached(model))


def seconds(job: Callable[[], Any]) -> float:
    """How long a job takes."""
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
