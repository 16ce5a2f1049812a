"""What did fine-tuning do to the heads? Your checkpoint next to the model that it came from.

    python examples/classify_checkpoint.py my-checkpoint --base gpt2

The folder is what `save_pretrained` wrote for model and tokenizer. Without a checkpoint a bundled
model is fine-tuned for a few steps, so that there is something to compare. Writes
`checkpoint_heads.csv`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import mi_toolkit as mi
from mi_toolkit.models.sources import find_source

BUNDLED = "toy-gpt2"


def fine_tune(folder: Path) -> None:
    """Train a copy of the bundled model on one sentence, and save it."""
    location = find_source(BUNDLED).location
    tokenizer = AutoTokenizer.from_pretrained(location)
    model = AutoModelForCausalLM.from_pretrained(location, dtype=torch.float32)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    ids = tokenizer("The cat sat on the mat.", return_tensors="pt").input_ids
    for _ in range(10):
        optimiser.zero_grad()
        model(ids, labels=ids).loss.backward()
        optimiser.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main(checkpoint: str | Path, base: str, prompt: str | None) -> None:
    """Print every head whose labels differ."""
    before = mi.classify_heads(mi.load_model(base), prompt)
    after = mi.classify_heads(mi.load_model(checkpoint), prompt)
    after.to_pandas().to_csv("checkpoint_heads.csv", index=False)
    heads = [mi.Head(*index) for index in torch.ones_like(before.scope).nonzero().tolist()]
    changed = [head for head in heads if before.labels_of(head) != after.labels_of(head)]
    for head in changed:
        was, now = (", ".join(report.labels_of(head)) or "none" for report in (before, after))
        print(f"{head}: {was} -> {now}")
    print(f"{len(changed)} of {len(heads)} heads of {base} carry other labels in {checkpoint}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkpoint", nargs="?", help="a folder of save_pretrained, or a hub id")
    parser.add_argument("--base", help="the model that it came from")
    parser.add_argument("--prompt", help="measure on this text, not by the standard protocol")
    asked = parser.parse_args()
    if asked.checkpoint and not asked.base:
        parser.error("name the model that the checkpoint came from: --base gpt2")
    with tempfile.TemporaryDirectory() as folder:
        if not asked.checkpoint:
            fine_tune(Path(folder))
        main(asked.checkpoint or folder, asked.base or BUNDLED, asked.prompt)
