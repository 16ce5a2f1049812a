"""What did fine-tuning do to the heads? Your checkpoint next to the model that it came from.

    python examples/classify_checkpoint.py my-checkpoint gpt2

The folder is what `save_pretrained` wrote for model and tokenizer. Without arguments a bundled
model is fine-tuned for a few steps and saved, so that there is something to compare.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import mi_toolkit as mi
from mi_toolkit.models.sources import find_source

BASE = "toy-gpt2"


def fine_tune(folder: Path) -> None:
    """Train a copy of the bundled model on one sentence, and save it."""
    location = find_source(BASE).location
    tokenizer = AutoTokenizer.from_pretrained(location)
    model = AutoModelForCausalLM.from_pretrained(location, dtype=torch.float32)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    ids = tokenizer("The cat sat on the mat.", return_tensors="pt").input_ids
    for _ in range(10):
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main(checkpoint: Path, base: str) -> None:
    """Print every head whose labels differ."""
    before = mi.classify_heads(mi.load_model(base))
    after = mi.classify_heads(mi.load_model(checkpoint))
    after.to_pandas().to_csv("checkpoint_heads.csv", index=False)
    changed = 0
    for head in (mi.Head(*index) for index in torch.ones_like(before.scope).nonzero().tolist()):
        was, now = before.labels_of(head), after.labels_of(head)
        if was != now:
            changed += 1
            print(f"{head}: {', '.join(was) or 'none'} -> {', '.join(now) or 'none'}")
    print(f"{changed} of {before.scope.numel()} heads of {base} carry other labels in {checkpoint}")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        fine_tune(Path("checkpoint"))
    main(*((Path(sys.argv[1]), sys.argv[2]) if len(sys.argv) > 2 else (Path("checkpoint"), BASE)))
