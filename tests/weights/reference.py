"""Scores once more, on Hugging Face's own model: text by text, with no padding and no hook."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mi_toolkit.weights.coordinates import ParameterInfo


def place_of(parameter: Tensor, place: ParameterInfo) -> Tensor:
    """A Hugging Face tensor's entries in canonical order, `[in, out]`."""
    rows, columns = torch.meshgrid(*(torch.arange(n) for n in place.shape), indexing="ij")
    hf_rows, hf_columns = place.hf.index(rows.flatten(), columns.flatten())
    index = (hf_rows,) if hf_columns is None else (hf_rows, hf_columns)
    return parameter.detach()[index].view(place.shape)


def text_gradients(hf_model: Any, texts: list[list[int]], name: str) -> list[Tensor]:
    """The gradient of each text's mean loss with respect to one parameter."""
    parameter = hf_model.get_parameter(name)
    gradients = []
    for ids in texts:
        row = torch.tensor([ids])
        loss = hf_model(row, labels=row).loss
        gradients.append(torch.autograd.grad(loss, parameter)[0])
    return gradients


def expected_scores(hf_model: Any, texts: list[list[int]], name: str) -> dict[str, Tensor]:
    """First- and second-order scores of one Hugging Face parameter, in its own layout."""
    weight = hf_model.get_parameter(name).detach()
    gradients = text_gradients(hf_model, texts, name)
    counts = torch.tensor([len(ids) - 1.0 for ids in texts])
    weighted = list(zip(gradients, (counts / counts.sum()).tolist(), strict=True))
    mean = torch.stack([share * gradient for gradient, share in weighted]).sum(dim=0)
    fisher = torch.stack([share * gradient**2 for gradient, share in weighted]).sum(dim=0)
    size = torch.stack([share * (gradient * weight).abs() for gradient, share in weighted])
    return {
        "grad_x_weight": (mean * weight).abs(),
        "signed_grad_x_weight": -mean * weight,
        "abs_grad_x_weight": size.sum(dim=0),
        "grad_squared": mean**2,
        "fisher": fisher,
        "obd": 0.5 * fisher * weight**2,
    }
