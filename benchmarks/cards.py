"""What watching every head of a model costs, and a card, next to a bare forward pass.

On one thread, in seconds of the processor. Each round runs forward pass and watching in turn, in
one process; the median of the rounds' ratios counts, so that a slow moment of the machine slows
both sides. A card is timed part by part, from the profiles of the pass on: that of the last layer's
first head, which takes longest, or of the one that is named.

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
from mi_toolkit.cards.card import PARTS
from mi_toolkit.cards.profile import DEFAULT_LENGTH
from mi_toolkit.core.model import HookedModel, evaluating, uncached
from mi_toolkit.core.stimuli import passages


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--texts", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--card", default=None, help="the head whose card is timed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, texts = mi.load_model(options.model), list(passages()[: options.texts])
    bare, watched = [], []
    for _ in range(options.rounds):
        bare.append(seconds(lambda: forward(model, texts)))
        begun = time.process_time()
        profiles = mi.cards.profile_heads(model, texts)
        watched.append(time.process_time() - begun)
    ratio = statistics.median(a / b for a, b in zip(watched, bare, strict=True))
    print(f"{options.model}, {len(texts)} texts, {torch.get_num_threads()} threads")
    print(f"  bare forward     {statistics.median(bare):7.2f} s")
    print(f"  profile_heads    {statistics.median(watched):7.2f} s  {ratio:.2f} ×")
    head = options.card or f"L{int(model.cfg.n_layers) - 1}H0"
    report = mi.classify_heads(model, texts[:1])
    card, total = None, 0.0
    for part in (None, *PARTS):
        begun = time.process_time()
        card = mi.head_card(
            model,
            head,
            profiles=profiles,
            report=report,
            onto=card,
            parts=() if part is None else (part,),
        )
        taken = time.process_time() - begun
        total += taken
        print(f"  card, {part or 'begun':10} {taken:7.2f} s")
    print(f"  card of {head:8} {total:7.2f} s  {total / statistics.median(bare):.1f} ×")


def forward(model: HookedModel, texts: list[str]) -> None:
    """Run the texts as `profile_heads` feeds them, to the logits."""
    how = feeding(model, None, min(DEFAULT_LENGTH, int(model.cfg.n_ctx)), "split")
    for fed in Batcher(model, texts, how, "text").batches(DEFAULT_BATCH_SIZE):
        with evaluating(model), torch.no_grad():
            model(fed.batch.ids, return_type="logits", **uncached(model))


def seconds(job: Callable[[], Any]) -> float:
    """How long the processor works at a job."""
    start = time.process_time()
    job()
    return time.process_time() - start


if __name__ == "__main__":
    main()
