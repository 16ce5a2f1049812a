"""A model that is linear in its embeddings: every score can be worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from transformer_lens.hook_points import HookPoint

try:
    from transformer_lens.HookedRootModule import HookedRootModule
except ImportError:
    from transformer_lens.hook_points import HookedRootModule


class Linear(HookedRootModule):
    """logits[v] = Σ over positions i of `weights[i, v]` · embedding[i]; nothing else."""

    def __init__(self, table: torch.Tensor, weights: torch.Tensor) -> None:
        super().__init__()
        self.table, self.weights = table, weights
        self.hook_embed = HookPoint()
        self.tokenizer = None
        self.cfg = SimpleNamespace(
            model_name="linear", device="cpu", d_vocab=len(table), n_ctx=len(weights)
        )
        self.setup()

    def forward(self, ids: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        embedded = self.hook_embed(self.table[ids])
        return torch.einsum("bid,ivd->bv", embedded, self.weights)[:, None]
