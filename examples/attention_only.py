"""A two-layer, attention-only model of one's own: does it grow induction heads, and by what step?

    python examples/attention_only.py
    python examples/attention_only.py --steps 1000 --heads 8

The model of "In-context Learning and Induction Heads" (Olsson et al. 2022, arXiv:2209.11895) in
small: random tokens said twice, of which the second half can be foretold by looking back. Any
model that TransformerLens makes is classified so, without a tokenizer. Writes `attention_only.csv`.
"""

from __future__ import annotations

import argparse

import pandas as pd
import torch
from torch.nn.functional import cross_entropy
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

import mi_toolkit as mi

VOCABULARY, LOOKS = 50, 4


def main(steps: int, heads: int, seed: int) -> None:
    """Train, and classify along the way."""
    torch.manual_seed(seed)
    sizes = {"n_layers": 2, "d_model": 16 * heads, "d_head": 16, "n_heads": heads, "n_ctx": 64}
    config = TransformerBridgeConfig(
        **sizes,
        d_vocab=VOCABULARY,
        attn_only=True,
        act_fn="gelu",
        normalization_type="LN",
        positional_embedding_type="rotary",  # with learned ones it takes far longer
    )
    model = TransformerBridge.boot_native(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    tables = []
    for step in range(steps + 1):
        if step % max(steps // LOOKS, 1) == 0:
            report = mi.classify_heads(model, behaviours=["previous_token", "induction"])
            tables.append(report.to_pandas().assign(step=step))
            best = {name: float(report[name].max()) for name in report.behaviours}
            print(f"step {step}: " + ", ".join(f"{name} {lift:.2f}" for name, lift in best.items()))
        n = int(torch.randint(8, 33, ()))
        ids = torch.randint(VOCABULARY, (32, n)).repeat(1, 2)
        logits = model(ids, return_type="logits")
        optimiser.zero_grad()
        cross_entropy(logits[:, n:-1].flatten(0, 1), ids[:, n + 1 :].flatten()).backward()
        optimiser.step()
    pd.concat(tables).to_csv("attention_only.csv", index=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=600, help="of training (%(default)s)")
    parser.add_argument("--heads", type=int, default=4, help="of a layer (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and text (%(default)s)")
    asked = parser.parse_args()
    main(asked.steps, asked.heads, asked.seed)
