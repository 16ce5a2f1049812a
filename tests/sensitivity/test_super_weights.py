"""A super weight that is planted is found, confirmed, and named in both coordinates."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from mi_toolkit.models.loading import load_model
from mi_toolkit.sensitivity.parameters import weight_matrices
from mi_toolkit.sensitivity.super_weight import SCALES
from mi_toolkit.sensitivity.super_weights import find_super_weights
from tests.models_here import loaded, untouched
from tests.sensitivity.toy_text import TOY_TEXT

NEURON, CHANNEL = 77, 30
SETTINGS: dict[str, Any] = {"search": TOY_TEXT[:4], "eval_limit": 6, "progress": False}


def planted(name: str, layer: int) -> Any:
    """A model whose neuron 77 writes 200 into channel 30 at every token, which the bias takes away.

    Without that one weight the channel is off by 200 everywhere.
    """
    model: Any = load_model(name)
    matrices = {matrix.name: matrix for matrix in weight_matrices(model)}
    n_columns = matrices[f"blocks.{layer}.mlp.W_out"].shape[1]

    def put(parameter: str, rows: Any, columns: Any, value: float) -> None:
        rows, columns = (torch.as_tensor(index).reshape(-1) for index in (rows, columns))
        rows, columns = torch.broadcast_tensors(rows, columns)
        matrices[parameter].write(rows, columns, torch.full((len(rows),), value))

    def get(parameter: str, column: int) -> float:
        return float(matrices[parameter].value()[0, column])

    mlp = f"blocks.{layer}.mlp"
    put(f"{mlp}.W_in", torch.arange(128), NEURON, 0.0)
    put(f"{mlp}.b_in", 0, NEURON, 8.0)  # GELU and ReLU of 8 are 8
    put(f"{mlp}.W_out", NEURON, torch.arange(n_columns), 0.0)
    put(f"{mlp}.W_out", NEURON, CHANNEL, 25.0)
    put(f"{mlp}.b_out", 0, CHANNEL, get(f"{mlp}.b_out", CHANNEL) - 200.0)
    return model


@pytest.mark.parametrize("name", ["toy-gpt2", "toy-pythia"])
def test_a_planted_super_weight_ranks_first_and_is_confirmed(name: str) -> None:
    model = planted(name, layer=1)
    before = [parameter.clone() for parameter in model.parameters()]
    found = find_super_weights(model, TOY_TEXT[24:], **SETTINGS)
    assert all(map(torch.equal, before, model.parameters()))
    first = found.candidates[0]
    assert (first.matrix, first.row, first.column) == ("blocks.1.mlp.W_out", NEURON, CHANNEL)
    assert first.is_confirmed
    assert (first.value, first.write, first.found_in_round) == (25.0, 200.0, 1)
    assert first.spike > 10
    assert first.without is not None
    assert first.without.loss > found.baseline.loss + 1
    assert first.screened_rise > 1
    assert first.input_spike > 3
    at = untouched(name).get_parameter(first.hf_name)
    assert at.shape[0] > first.hf_row
    assert at.shape[1] > first.hf_column
    losses = dict(first.sweep)
    assert set(losses) == set(SCALES)
    assert losses[0.0] == pytest.approx(first.without.loss, abs=1e-6)
    assert losses[0.5] > found.baseline.loss + 0.5
    table = found.to_pandas()
    assert table.iloc[0]["perplexity_after"] == math.exp(first.without.loss)
    assert table.iloc[0]["perplexity_before"] == math.exp(found.baseline.loss)
    assert table.iloc[0]["parameter"] == "blocks.1.mlp.W_out"


def test_a_write_that_stands_out_and_does_not_matter_is_not_confirmed() -> None:
    model = loaded("toy-gpt2")
    found = find_super_weights(model, TOY_TEXT[24:], min_spike=2.0, min_rise=0.5, **SETTINGS)
    assert found.candidates
    assert found.confirmed == ()
    assert all(each.sweep == () for each in found.candidates)
    assert found.to_pandas()["loss_at_0"].isna().all()
    without = [each.without for each in found.candidates]
    losses = [quality.loss for quality in without if quality is not None]
    assert losses == sorted(losses, reverse=True)
    # Who was screened out stands behind, with nothing measured on the held-out text.
    assert without == [*without[: len(losses)], *[None] * (len(without) - len(losses))]
    screened = [each.screened_rise for each in found.candidates[len(losses) :]]
    assert all(rise < 0.1 for rise in screened)
    assert screened == sorted(screened, reverse=True)
    for each in found.candidates:
        assert each.is_confirmed is False
        assert each.restored is None


def test_a_model_without_outstanding_writes_has_none() -> None:
    found = find_super_weights(loaded("toy-qwen2"), TOY_TEXT[24:], min_spike=1e6, **SETTINGS)
    assert found.candidates == ()
    assert len(found.to_pandas()) == 0
    assert found.none_left.loss == found.baseline.loss
