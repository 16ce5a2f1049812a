"""Writes of an MLP that stand out, and the single weight behind each."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from mi_toolkit.hooked_model import HookedModel, evaluating
from mi_toolkit.prompts.tokens import TokenBatch
from mi_toolkit.sensitivity.coordinates import WeightMatrix
from mi_toolkit.sensitivity.edits import applied, edits_of
from mi_toolkit.sensitivity.objective import run
from mi_toolkit.sensitivity.scorers.without_gradient import watch_input

MOST_ROUNDS = 8


def candidates_of(
    model: HookedModel,
    matrices: Sequence[WeightMatrix],
    batch: TokenBatch,
    min_spike: float,
    batch_size: int,
) -> list[dict[str, Any]]:
    """Weights that stand out, round by round, with the earlier ones at 0."""
    found: list[dict[str, Any]] = []
    outputs = [matrix for matrix in matrices if matrix.component == "W_out"]
    for number in range(1, MOST_ROUNDS + 1):
        places = [(each["matrix"], each["row"], each["column"]) for each in found]
        edits = edits_of(matrices, places, "zero", 1.0, None) if places else []
        with applied(edits):
            peaks = _peaks(model, outputs, batch, batch_size)
        new = [peak for peak in peaks if peak["spike"] >= min_spike and peak["value"] != 0]
        if not new:
            break
        found += [{**peak, "found_in_round": number} for peak in new]
    return found


def _peaks(
    model: HookedModel, outputs: Sequence[WeightMatrix], batch: TokenBatch, batch_size: int
) -> list[dict[str, Any]]:
    """Of each layer the largest write and the weight that contributes most to it."""
    real = torch.zeros(0)
    best: dict[str, tuple[float, Tensor, int]] = {}
    largest: dict[str, Tensor] = {}
    by_name = {matrix.name: matrix for matrix in outputs}

    def seen(name: str, width: int, activation: Tensor) -> None:
        inputs = activation.detach().reshape(-1, width)[real].float()
        writes = (inputs @ by_name[name].value().float()).abs()
        channels = writes.amax(dim=0)
        largest[name] = torch.maximum(largest[name], channels) if name in largest else channels
        token, channel = divmod(int(writes.argmax()), writes.shape[1])
        if name not in best or float(writes[token, channel]) > best[name][0]:
            best[name] = (float(writes[token, channel]), inputs[token].clone(), channel)

    with ExitStack() as hooks, evaluating(model), torch.no_grad():
        for matrix in outputs:
            assert matrix.tap is not None  # an output projection multiplies activations
            handle = watch_input(matrix.tap, matrix.name, matrix.shape[0], seen)
            hooks.callback(handle.remove)
        for start in range(0, len(batch), batch_size):
            part = batch.part(start, min(start + batch_size, len(batch)))
            places = torch.arange(part.ids.shape[1]) < part.lengths[:, None]
            real = places.flatten().to(model.cfg.device)
            run(model, part)
    return [_peak(by_name[name], *best[name], largest[name]) for name in best]


def _peak(
    matrix: WeightMatrix, write: float, inputs: Tensor, channel: int, largest: Tensor
) -> dict[str, Any]:
    weights = matrix.value()[:, channel].float()
    row = int((inputs * weights).abs().argmax())
    hf_row, hf_column = matrix.hf.index(torch.tensor([row]), torch.tensor([channel]))
    assert hf_column is not None  # a matrix, not a vector
    return {
        "matrix": matrix.name,
        "layer": matrix.layer,
        "row": row,
        "column": channel,
        "hf_name": matrix.hf.name,
        "hf_row": int(hf_row),
        "hf_column": int(hf_column),
        "value": float(weights[row]),
        "spike": write / max(float(largest.median()), 1e-12),
        "input": float(inputs[row]),
        "write": float(inputs[row] * weights[row]),
    }
