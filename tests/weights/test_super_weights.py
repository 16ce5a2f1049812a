"""A super weight that is planted is found, confirmed, and named in both coordinates."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch

from mi_toolkit.core.stimuli import evaluation_passages, halves, loss_batch
from mi_toolkit.models.load import load_model
from mi_toolkit.weights.activation_scorers import watch_input
from mi_toolkit.weights.parameters import weight_matrices
from mi_toolkit.weights.super_weights import MOST_SCREENED, SCALES, find_super_weights
from tests.models_here import loaded, untouched
from tests.weights.toy_text import TOY_TEXT

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


@contextmanager
def counting(model: Any) -> Iterator[list[int]]:
    """Inside, the positions that each MLP computes are counted, by hooks on its output matrix."""
    ran: list[int] = []

    def count(name: str, width: int, activation: torch.Tensor) -> None:
        ran.append(activation.reshape(-1, width).shape[0])

    with ExitStack() as hooks:
        for matrix in weight_matrices(model):
            if matrix.component == "W_out":
                hooks.callback(watch_input(matrix.tap, matrix.name, matrix.shape[0], count).remove)
        yield ran


def input_of(model: Any, matrix: Any, ids: torch.Tensor) -> torch.Tensor:
    kept: list[torch.Tensor] = []
    handle = watch_input(matrix.tap, "", matrix.shape[0], lambda _, __, x: kept.append(x))
    with torch.no_grad():
        model(ids)
    handle.remove()
    return kept[0].reshape(-1, matrix.shape[0])


@pytest.mark.parametrize(("name", "min_spike"), [("toy-gpt2", 0.6), ("toy-qwen2", 1.19)])
def test_the_cost_is_what_the_layers_ran_and_the_spikes_are_of_one_pass(
    name: str, min_spike: float
) -> None:
    model = loaded(name)
    with counting(model) as ran:
        found = find_super_weights(model, TOY_TEXT[24:], min_spike=min_spike, **SETTINGS)
    unit = model.cfg.n_layers * loss_batch(model, TOY_TEXT[:4]).ids.numel()
    assert found.n_passes == pytest.approx(sum(ran) / unit)
    n_layers = model.cfg.n_layers
    # One pass, an eighth to check that later layers can run alone, and the candidates' own layers.
    own = sum(1 - each.layer / n_layers for each in found.candidates)
    assert own > 0
    assert found.n_passes >= 1 + own
    if all(each.without is None for each in found.candidates):
        held_out = loss_batch(model, TOY_TEXT[24:], limit=6).ids.numel() / (unit / n_layers)
        share = 1 - min(each.layer for each in found.candidates) / n_layers
        assert found.n_passes == pytest.approx(1 + own + held_out * (1 + share), abs=0.5)
    assert f"{found.n_passes:.1f} passes over the search text" in repr(found)
    batch = loss_batch(model, TOY_TEXT[:4])
    real = (torch.arange(batch.ids.shape[1]) < batch.lengths[:, None]).flatten()
    for each in found.candidates:
        matrix = next(m for m in weight_matrices(model) if m.name == each.matrix)
        inputs = input_of(model, matrix, batch.ids)[real]
        largest = float((inputs[:, each.row] * matrix.value()[each.row, each.column]).abs().max())
        usual = float((inputs @ matrix.value()).abs().amax(dim=0).median())
        assert abs(each.write) == pytest.approx(largest, rel=1e-4)
        assert each.spike == pytest.approx(largest / usual, rel=1e-4)


def test_no_more_candidates_are_looked_at_than_is_said_and_the_rest_is_counted() -> None:
    found = find_super_weights(loaded("toy-gpt2"), TOY_TEXT[24:], min_spike=0.4, **SETTINGS)
    assert len(found.candidates) == MOST_SCREENED
    assert found.n_left_out > 0
    assert f"{found.n_left_out} that stand out less left out" in repr(found)


@pytest.mark.parametrize("name", ["toy-gpt2", "toy-pythia"])
def test_a_planted_super_weight_ranks_first_and_is_confirmed(name: str) -> None:
    model = planted(name, layer=1)
    before = [parameter.clone() for parameter in model.parameters()]
    found = find_super_weights(model, TOY_TEXT[24:], **SETTINGS)
    assert all(map(torch.equal, before, model.parameters()))
    first = found.candidates[0]
    assert (first.matrix, first.row, first.column) == ("blocks.1.mlp.W_out", NEURON, CHANNEL)
    assert first.is_confirmed
    assert (first.value, first.write) == (25.0, 200.0)
    assert first.spike > 10
    assert first.channel_norm > 2
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
    assert first.restored is not None
    assert first.restored.loss < first.without.loss
    table = found.to_pandas()
    assert table.iloc[0]["perplexity_after"] == math.exp(first.without.loss)
    assert table.iloc[0]["perplexity_before"] == math.exp(found.baseline.loss)
    assert table.iloc[0]["parameter"] == "blocks.1.mlp.W_out"


def test_a_write_that_stands_out_and_does_not_matter_is_not_confirmed() -> None:
    model = loaded("toy-gpt2")
    found = find_super_weights(model, TOY_TEXT[24:], min_spike=0.6, min_rise=0.5, **SETTINGS)
    assert found.candidates
    assert found.confirmed == ()
    assert all(each.sweep == () for each in found.candidates)
    assert found.to_pandas()["loss_at_0"].isna().all()
    without = [each.without for each in found.candidates]
    losses = [quality.loss for quality in without if quality is not None]
    assert losses == sorted(losses, reverse=True)
    # Who was screened out stands after, with nothing measured on the held-out text.
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


@pytest.mark.smollm2
@pytest.mark.slow
def test_smollm2_has_its_super_weight_first_in_60_passes() -> None:
    """The weight that `model.layers.11.mlp.down_proj.weight[507, 1229]` is.

    On one short text for each half; docs/super_weights.md has the defaults.
    """
    model = loaded("smollm2-135m-instruct")
    scoring, held_out = halves(evaluation_passages())
    settings: dict[str, Any] = {"search": scoring[:1], "max_length": 48, "progress": False}
    with counting(model) as ran:
        found = find_super_weights(model, held_out[:1], **settings)
    first = found.candidates[0]
    assert (first.hf_name, first.hf_row, first.hf_column) == (
        "model.layers.11.mlp.down_proj.weight",
        507,
        1229,
    )
    assert first.is_confirmed
    assert first.without is not None
    assert first.without.perplexity > 3 * found.baseline.perplexity
    unit = model.cfg.n_layers * loss_batch(model, scoring[:1], max_length=48).ids.numel()
    assert sum(ran) / unit == pytest.approx(found.n_passes)
    assert found.n_passes <= 60
