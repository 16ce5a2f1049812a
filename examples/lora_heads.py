"""What did a LoRA do to the heads? The model without its adapter, and with it merged.

    pip install "mi-toolkit[peft]"
    python examples/lora_heads.py my-adapter

The folder is what peft's `save_pretrained` wrote; it names its model. Without one an adapter is
trained on a bundled model for a few steps. Writes `lora_heads.csv`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import peft
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import mi_toolkit as mi
from mi_toolkit.models.sources import find_source


def train_adapter(folder: Path, steps: int) -> None:
    """Teach the bundled model one sentence by an adapter of its attention's weights."""
    location = find_source("toy-gpt2").location
    ids = AutoTokenizer.from_pretrained(location)("The cat sat.", return_tensors="pt").input_ids
    base = AutoModelForCausalLM.from_pretrained(location, dtype=torch.float32)
    config = peft.LoraConfig(target_modules=["c_attn"], task_type="CAUSAL_LM", fan_in_fan_out=True)
    model = peft.get_peft_model(base, config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimiser.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
    model.save_pretrained(folder)


def main(adapter: Path, behaviours: list[str]) -> None:
    """Print how far each behaviour moved, and at which head the furthest."""
    base = peft.PeftConfig.from_pretrained(adapter).base_model_name_or_path
    before = mi.classify_heads(mi.load_model(base), behaviours=behaviours)
    after = mi.classify_heads(mi.load_model(adapter), behaviours=behaviours)  # merged
    after.to_pandas().to_csv("lora_heads.csv", index=False)
    for name in behaviours:
        moved = (after[name] - before[name]).nan_to_num()
        head = mi.Head(*divmod(int(moved.abs().argmax()), moved.shape[1]))
        counts = f"{len(before.heads(name))} -> {len(after.heads(name))} heads"
        print(f"{name:15} {counts}; furthest {head}, by {moved[head]:+.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("adapter", nargs="?", type=Path, help="a folder that peft wrote")
    parser.add_argument("--behaviours", nargs="+", default=["previous_token", "induction"])
    parser.add_argument("--steps", type=int, default=10, help="of the adapter trained here")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if asked.adapter is None:
            train_adapter(Path(folder), asked.steps)
        main(asked.adapter or Path(folder), asked.behaviours)
