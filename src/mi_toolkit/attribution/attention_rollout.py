"""`attention_rollout`: attention multiplied through the layers, from the last position down.

1. In each layer the pattern is averaged over heads, and mixed half and half with the identity, for
   the residual stream.
2. These matrices are multiplied, the first layer's rightmost: row q, column k is then the share of
   position q's last state that rolls back to token k.
3. The row of the last position is the score. It is at least 0 and adds up to 1.

After Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers" (arXiv:2005.00928).

It misleads more than the others. It knows neither the target nor what heads write: every target
gets the same scores, and a head that rests on the first token with nothing to say gives that token
its attention all the same, layer after layer, so the first token tends to win. Half for the
residual stream is an assumption; MLPs and the sizes of values have no part. A picture of where
information could have come from, not of what the prediction rests on.
"""

from __future__ import annotations

import torch

from mi_toolkit.attribution.question import Answer, Question
from mi_toolkit.heads.patterns import visit_patterns
from mi_toolkit.hooked_model import attention_layers


def attention_rollout(question: Question) -> Answer:
    """Rolled-out attention of the last position; the same for every target."""
    identity = torch.eye(len(question.ids), dtype=torch.float64)
    rolled = identity

    def roll(layer: int, patterns: torch.Tensor) -> None:
        nonlocal rolled
        mean = patterns[0].double().mean(dim=0).cpu()
        mixed = (mean + identity) / 2
        rolled = mixed / mixed.sum(dim=-1, keepdim=True) @ rolled

    layers = attention_layers(question.model)
    visit_patterns(question.model, question.ids[None], layers, roll)
    return Answer(scores=rolled[-1])
