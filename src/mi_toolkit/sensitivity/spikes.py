"""Writes of an MLP that stand out, and the single weight behind each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from mi_toolkit.hooked_model import HookedModel, evaluating
from mi_toolkit.prompts.tokens import TokenBatch
from mi_toolkit.sensitivity.controls import Triple
from mi_toolkit.sensitivity.coordinates import WeightMatrix
from mi_toolkit.sensitivity.edits import applied, planned
from mi_toolkit.sensitivity.objective import run
from mi_toolkit.sensitivity.scorers.without_gradient import watch_input

MOST_ROUNDS = 8
MIN_INPUT_SPIKE = 3.0
"""How far the neuron's output has to stand out: times the median neuron's largest."""

Screen = Callable[[Sequence[Triple]], Sequence[float]]
"""Rise in loss without each of some weights, on a short text."""


def candidates_of(
    model: HookedModel,
    matrices: Sequence[WeightMatrix],
    batch: TokenBatch,
    *,
    min_spike: float,
    worth: float,
    screen: Screen,
    batch_size: int,
) -> list[dict[str, Any]]:
    """Weights that stand out, round by round with the earlier ones at 0, each screened.

    It ends with the round in which none of the new ones raises the loss by `worth`.
    """
    found: list[dict[str, Any]] = []
    outputs = [matrix for matrix in matrices if matrix.component == "W_out"]
    for number in range(1, MOST_ROUNDS + 1):
        places = [place_of(each) for each in found]
        with applied(planned(matrices, places).edits() if places else []):
            peaks = _peaks(model, outputs, batch, batch_size)
        new = [
            peak
            for peak in peaks
            if peak["spike"] >= min_spike
            and peak["input_spike"] >= MIN_INPUT_SPIKE
            and peak["value"] != 0
        ]
        if not new:
            break
        rises = screen([place_of(peak) for peak in new])
        found += [
            {**peak, "found_in_round": number, "screened_rise": rise}
            for peak, rise in zip(new, rises, strict=True)
        ]
        if max(rises) < worth:
            break
    return found


def place_of(peak: dict[str, Any]) -> Triple:
    """The weight behind a peak."""
    return peak["matrix"], peak["row"], peak["column"]


def _peaks(
    model: HookedModel, outputs: Sequence[WeightMatrix], batch: TokenBatch, batch_size: int
) -> list[dict[str, Any]]:
    """Of each layer the largest write and the weight that contributes most to it."""
    real = torch.zeros(0)
    best: dict[str, tuple[float, Tensor, int]] = {}
    largest: dict[str, Tensor] = {}
    largest_inputs: dict[str, Tensor] = {}
    by_name = {matrix.name: matrix for matrix in outputs}

    def seen(name: str, width: int, activation: Tensor) -> None:
        inputs = activation.detach().reshape(-1, width)[real].float()
        writes = (inputs @ by_name[name].value().float()).abs()
        _raise_to(largest, name, writes.amax(dim=0))
        _raise_to(largest_inputs, name, inputs.abs().amax(dim=0))
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
    return [
        _peak(by_name[name], *best[name], largest[name].median(), largest_inputs[name].median())
        for name in best
    ]


def _raise_to(largest: dict[str, Tensor], name: str, values: Tensor) -> None:
    largest[name] = torch.maximum(largest[name], values) if name in largest else values


def _peak(
    matrix: WeightMatrix,
    write: float,
    inputs: Tensor,
    channel: int,
    usual_write: Tensor,
    usual_input: Tensor,
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
        "spike": write / max(float(usual_write), 1e-12),
        "input_spike": abs(float(inputs[row])) / max(float(usual_input), 1e-12),
        "input": float(inputs[row]),
        "write": float(inputs[row] * weights[row]),
    }
