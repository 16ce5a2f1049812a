"""Digests: what must differ does, and what must not does not."""

from __future__ import annotations

import copy

import torch

from mi_toolkit.core.model import weights_digest
from tests.models_here import loaded


def test_a_single_bit_of_a_single_weight_tells_two_models_apart() -> None:
    model = loaded("toy-opt")
    same, other = copy.deepcopy(model), copy.deepcopy(model)
    assert weights_digest(same) == weights_digest(model)
    weight = next(p for p in other.parameters() if p.ndim == 2)
    with torch.no_grad():
        weight.view(torch.int32)[3, 5] ^= 1
    assert weights_digest(other) != weights_digest(model)


def test_threads_do_not_change_a_digest() -> None:
    model, threads = loaded("toy-opt"), torch.get_num_threads()
    alone = []
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            alone.append(weights_digest(model))
    finally:
        torch.set_num_threads(threads)
    assert alone[0] == alone[1]
