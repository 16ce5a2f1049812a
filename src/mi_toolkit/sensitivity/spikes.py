"""Weights of MLP outputs whose writes stand out, found in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from mi_toolkit.errors import WeightError
from mi_toolkit.hooked_model import HookedModel
from mi_toolkit.prompts.tokens import TokenBatch
from mi_toolkit.sensitivity.controls import Triple
from mi_toolkit.sensitivity.coordinates import WeightMatrix, hf_coordinates
from mi_toolkit.sensitivity.taps import watch_input

MIN_INPUT_SPIKE = 3.0
"""How far the neuron's output has to stand out: times the median neuron's largest."""


class Spikes:
    """What the neurons put out and the MLPs write, at their largest, over all that has run."""

    def __init__(self, model: HookedModel, outputs: Sequence[WeightMatrix]) -> None:
        self._model, self._outputs = model, outputs
        self._inputs: dict[str, Tensor] = {}
        self._writes: dict[str, Tensor] = {}

    @contextmanager
    def watching(self, batch: TokenBatch) -> Iterator[None]:
        """Inside, a pass over the batch is watched."""
        places = torch.arange(batch.ids.shape[1]) < batch.lengths[:, None]
        real = places.flatten().to(self._model.cfg.device)
        by_name = {matrix.name: matrix for matrix in self._outputs}

        def seen(name: str, width: int, activation: Tensor) -> None:
            inputs = activation.detach().reshape(-1, width)[real].float()
            writes = inputs @ by_name[name].value().float()
            _raise_to(self._inputs, name, _largest(inputs))
            _raise_to(self._writes, name, _largest(writes))

        with ExitStack() as hooks:
            for matrix in self._outputs:
                if matrix.tap is None:
                    raise WeightError(
                        f"What {matrix.name} multiplies shows in no module (it is inside an "
                        "expert), so its spikes are not seen: leave its layer out."
                    )
                handle = watch_input(matrix.tap, matrix.name, matrix.shape[0], seen)
                hooks.callback(handle.remove)
            yield

    def candidates(self, min_spike: float, most: int) -> tuple[list[dict[str, Any]], int]:
        """The weights whose own largest write stands out, and how many more than `most` there are.

        A weight's largest write is |w| · max |x| over the tokens, exactly, so that none hides
        another. In order of how far both the write and, by the weights alone, the channel stand
        out.
        """
        found: list[dict[str, Any]] = []
        n_found = 0
        for matrix in self._outputs:
            n_more, candidates = self._in_matrix(matrix, min_spike, most)
            n_found += n_more
            found += candidates
        found.sort(key=lambda each: -each["spike"] * each["channel_norm"])
        return found[:most], n_found - len(found[:most])

    def _in_matrix(
        self, matrix: WeightMatrix, min_spike: float, most: int
    ) -> tuple[int, list[dict[str, Any]]]:
        """How many stand out, and `most` of them."""
        weights = matrix.value().float()
        inputs = self._inputs[matrix.name]
        usual = self._writes[matrix.name].abs().median().clamp_min(1e-12)
        input_spikes = inputs.abs() / inputs.abs().median().clamp_min(1e-12)
        norms = weights.norm(dim=0)
        norms = norms / norms.median().clamp_min(1e-12)
        spikes = weights.abs() * inputs.abs()[:, None] / usual
        stands_out = (spikes >= min_spike) & (input_spikes >= MIN_INPUT_SPIKE)[:, None]
        stands_out &= weights != 0
        n_found = int(stands_out.sum())
        order = (spikes * norms).masked_fill(~stands_out, -1.0).flatten()
        flat = order.topk(min(n_found, most)).indices.cpu()
        rows, columns = flat // weights.shape[1], flat % weights.shape[1]
        hf_name, hf_rows, hf_columns = hf_coordinates(matrix, rows, columns)
        return n_found, [
            {
                "matrix": matrix.name,
                "layer": matrix.layer,
                "row": row,
                "column": column,
                "hf_name": hf_name,
                "hf_row": hf_row,
                "hf_column": hf_column,
                "value": float(weights[row, column]),
                "spike": float(spikes[row, column]),
                "channel_norm": float(norms[column]),
                "input_spike": float(input_spikes[row]),
                "input": float(inputs[row]),
                "write": float(inputs[row] * weights[row, column]),
            }
            for row, column, hf_row, hf_column in zip(
                rows.tolist(), columns.tolist(), hf_rows, hf_columns, strict=True
            )
        ]


def place_of(candidate: dict[str, Any]) -> Triple:
    """The weight of a candidate."""
    return candidate["matrix"], candidate["row"], candidate["column"]


def _largest(values: Tensor) -> Tensor:
    """Of each column the entry that is the largest by size, with its sign."""
    return values.gather(0, values.abs().argmax(dim=0, keepdim=True))[0]


def _raise_to(largest: dict[str, Tensor], name: str, values: Tensor) -> None:
    known = largest.get(name, values)
    largest[name] = torch.where(values.abs() > known.abs(), values, known)
