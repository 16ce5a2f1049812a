"""How many tokens each expert of a mixture saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from mi_toolkit.hooked_model import HookedModel, evaluating
from mi_toolkit.prompts.tokens import TokenBatch
from mi_toolkit.sensitivity.coordinates import Tap, WeightMatrix
from mi_toolkit.sensitivity.objective import run
from mi_toolkit.sensitivity.taps import watch_input


def routed_tokens(
    model: HookedModel, matrices: Sequence[WeightMatrix], batches: Iterable[TokenBatch]
) -> dict[str, int]:
    """Real tokens that ran through each expert, by its name `blocks.0.mlp.experts.3`.

    Empty where there are no experts. Costs a forward pass where there are.
    """
    taps: dict[str, tuple[Tap, int]] = {}
    for matrix in matrices:
        if matrix.expert is not None and matrix.tap is not None:
            taps[matrix.name.rpartition(".")[0]] = (matrix.tap, matrix.shape[0])
    if not taps:
        return {}
    counts: Counter[str] = Counter(dict.fromkeys(taps, 0))
    real = torch.zeros(0)

    def seen(name: str, width: int, activation: Tensor) -> None:
        # What an expert does not see is shown as zeros.
        counts[name] += int(activation.detach().reshape(-1, width)[real].any(dim=-1).sum())

    handles = [watch_input(tap, name, width, seen) for name, (tap, width) in taps.items()]
    try:
        with evaluating(model), torch.no_grad():
            for batch in batches:
                places = torch.arange(batch.ids.shape[1]) < batch.lengths[:, None]
                real = places.flatten().to(model.cfg.device)
                run(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return dict(counts)
