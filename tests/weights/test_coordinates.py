"""A weight's two coordinates, against Hugging Face's own copy of the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import mi_toolkit as mi
from mi_toolkit.models.load import load_model
from mi_toolkit.weights.coordinates import WeightMatrix
from mi_toolkit.weights.parameters import weight_matrices
from tests.hooked_transformer import (
    FAMILIES,
    HookedTransformer,
    HookedTransformerConfig,
    needs_hooked_transformer,
    small_hooked,
)
from tests.models_here import TOYS, untouched
from tests.tiny_models import tiny_model, tiny_tokenizer

IDS = torch.randint(1, 300, (2, 12), generator=torch.Generator().manual_seed(0))


def every_index(matrix: WeightMatrix) -> tuple[torch.Tensor, torch.Tensor]:
    rows, columns = torch.meshgrid(*(torch.arange(n) for n in matrix.shape), indexing="ij")
    return rows.flatten(), columns.flatten()


def at(hf_model: Any, matrix: WeightMatrix, rows: Any, columns: Any) -> tuple[Any, Any]:
    assert matrix.hf is not None
    return hf_model.get_parameter(matrix.hf.name), matrix.hf.within(rows, columns)


def check_every_coordinate(model: Any, hf_model: Any) -> None:
    seen: dict[str, torch.Tensor] = {}
    for matrix in weight_matrices(model):
        rows, columns = every_index(matrix)
        parameter, index = at(hf_model, matrix, rows, columns)
        assert matrix.hf is not None
        assert torch.equal(matrix.read(rows, columns), parameter.detach()[index]), matrix
        assert torch.equal(matrix.value().flatten(), matrix.read(rows, columns))
        counts = seen.setdefault(matrix.hf.name, torch.zeros(parameter.shape))
        counts[index] += 1
    # No weight of the checkpoint is in two canonical parameters.
    assert all(int(counts.max()) == 1 for counts in seen.values())
    # OPT's first two rows of position embeddings are the only weights that no text runs through.
    partial = {name for name, counts in seen.items() if int(counts.min()) == 0}
    assert all("embed_positions" in name for name in partial)
    zeros = {name for name, weight in hf_model.named_parameters() if not weight.any()}
    assert {name for name, _ in hf_model.named_parameters()} - set(seen) <= zeros


def check_writing(model: Any, hf_model: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        clean = model(IDS)
    for matrix in weight_matrices(model):
        rows, columns = (torch.randint(n, (24,), generator=generator) for n in matrix.shape)
        if matrix.component == "W_E":
            rows = IDS.flatten()
        if matrix.component == "W_pos":
            rows = rows % 12
        old = matrix.read(rows, columns)
        new = old + 0.5
        parameter, index = at(hf_model, matrix, rows, columns)
        kept = parameter.detach().clone()
        matrix.write(rows, columns, new)
        with torch.no_grad():
            parameter[index] = new
            ours, theirs = model(IDS), hf_model(IDS).logits
            parameter.copy_(kept)
        matrix.write(rows, columns, old)
        torch.testing.assert_close(ours, theirs, atol=5e-4, rtol=1e-4, msg=matrix.name)
        if matrix.component != "b_K":  # it shifts all scores of a query alike
            assert float((ours - clean).abs().max()) > 1e-3, matrix
    with torch.no_grad():
        assert torch.equal(model(IDS), clean)


@pytest.mark.parametrize("name", TOYS)
def test_every_weight_of_a_bridge_is_where_the_hugging_face_model_has_it(name: str) -> None:
    check_every_coordinate(load_model(name), untouched(name))


@pytest.mark.parametrize("name", TOYS)
def test_a_write_changes_a_bridge_as_it_changes_the_hugging_face_model(name: str) -> None:
    check_writing(load_model(name), untouched(name))


@pytest.mark.parametrize(
    ("model_type", "fields"),
    [
        ("llama", {}),
        ("qwen3", {}),
        ("gemma2", {"query_pre_attn_scalar": 8}),
        ("gpt_neox", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
        ("bloom", {"n_layer": 4, "n_head": 4}),
        ("phi3", {"pad_token_id": 0}),
        ("mixtral", {"num_local_experts": 2}),
        ("gpt_oss", {"num_local_experts": 4}),
    ],
)
def test_a_family_that_is_in_no_table_of_ours_has_its_coordinates(model_type, fields) -> None:
    pair = [tiny_model(model_type, **fields) for _ in range(2)]
    model = load_model("tiny", hf_model=pair[0], tokenizer=tiny_tokenizer())
    for matrix in weight_matrices(model):
        if matrix.group in ("attn", "mlp"):
            rows, columns = every_index(matrix)
            parameter, index = at(pair[1], matrix, rows, columns)
            assert torch.equal(matrix.read(rows, columns), parameter.detach()[index]), matrix


@pytest.mark.parametrize("name", FAMILIES)
def test_a_hooked_transformer_has_the_same_coordinates(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folder = small_hooked(name, tmp_path, monkeypatch)
    hf_model = AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    ).eval()
    check_every_coordinate(model, hf_model)
    check_writing(model, hf_model)
    bridge = load_model(name)
    names = [(m.name, m.shape, m.hf, m.unit) for m in weight_matrices(bridge)]
    assert [(m.name, m.shape, m.hf, m.unit) for m in weight_matrices(model)] == names


def test_rows_and_columns_belong_to_heads_and_neurons() -> None:
    matrices = {matrix.name: matrix for matrix in weight_matrices(load_model("toy-qwen2"))}
    rows, columns = torch.tensor([0, 70, 127]), torch.tensor([0, 33, 63])
    expected = {"W_Q": [0, 1, 1], "W_K": [0, 1, 1], "W_O": [0, 2, 3], "W_out": [0, 70, 127]}
    for component, units in expected.items():
        part = "mlp" if component == "W_out" else "attn"
        found = matrices[f"blocks.1.{part}.{component}"].units(rows, columns)
        assert found is not None
        assert found.tolist() == units, component
    assert matrices["blocks.1.attn.W_K"].unit == "kv_head"
    assert matrices["blocks.1.attn.W_Q"].unit == "head"
    assert matrices["embed.W_E"].units(rows, columns) is None


def test_tied_embeddings_are_one_parameter_and_untied_ones_two() -> None:
    names = [
        {m.name for m in weight_matrices(load_model(name))} & {"embed.W_E", "unembed.W_U"}
        for name in ("toy-gpt2", "toy-pythia")
    ]
    assert names == [{"embed.W_E"}, {"embed.W_E", "unembed.W_U"}]


def test_an_experts_matrices_make_what_the_expert_writes() -> None:
    for kind in ("mixtral", "gpt_oss"):
        theirs = tiny_model(kind, num_local_experts=4)
        model = load_model("tiny", hf_model=theirs, tokenizer=tiny_tokenizer())
        own = {m.name.partition("experts.1.")[2]: m.value() for m in weight_matrices(model)
               if m.name.startswith("blocks.2.mlp.experts.1.")}  # fmt: skip
        x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
        gate, into = (x @ own[f"W_{name}"] + own.get(f"b_{name}", 0.0) for name in ("gate", "in"))
        if kind == "gpt_oss":
            inner = gate * torch.sigmoid(1.702 * gate) * (into + 1)
        else:
            inner = torch.nn.functional.silu(gate) * into
        found = inner @ own["W_out"] + own.get("b_out", 0.0)
        experts = model.blocks[2].mlp.original_component.experts  # type: ignore[attr-defined]
        chosen = torch.ones(5, 1, dtype=torch.long)
        with torch.no_grad():
            torch.testing.assert_close(found, experts(x, chosen, torch.ones(5, 1)))


def test_experts_say_how_many_tokens_they_saw() -> None:
    theirs = tiny_model("mixtral", num_local_experts=4, num_experts_per_tok=2)
    with torch.no_grad():
        for layer in theirs.model.layers:  # ties go to some, and the others see nothing
            layer.mlp.gate.weight.zero_()
    model = load_model("tiny", hf_model=theirs, tokenizer=tiny_tokenizer())
    chosen: list[torch.Tensor] = []
    experts = model.blocks[1].mlp.original_component.experts  # type: ignore[attr-defined]
    handle = experts.register_forward_pre_hook(lambda _, given: chosen.append(given[1]))
    with torch.no_grad():
        model(IDS)
    handle.remove()
    scores = mi.score_weights(model, IDS, layers=[1])
    counts = chosen[0].flatten().bincount(minlength=4).tolist()
    assert [scores.routed[f"blocks.1.mlp.experts.{n}"] for n in range(4)] == counts
    table = scores.by_layer()
    at = table.parameter == "blocks.1.mlp.experts.1.W_out"
    assert table.n_tokens[at].tolist() == counts[1:2]
    idle = [n for n, count in enumerate(counts) if not count]
    assert idle
    assert all(not scores.scores[f"blocks.1.mlp.experts.{n}.W_in"].any() for n in idle)
    assert "saw no token" in str(scores)
    assert set(scores.by_neuron().expert) == {0, 1, 2, 3}


@needs_hooked_transformer
@pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated:DeprecationWarning")
@pytest.mark.parametrize("attn_only", [True, False])
def test_a_hooked_transformer_of_ones_own_is_scored_without_a_checkpoint(attn_only: bool) -> None:
    widths = {"n_layers": 1, "d_model": 16, "n_ctx": 32, "d_head": 8, "n_heads": 2, "d_vocab": 50}
    own = {} if attn_only else {"d_mlp": 20}
    cfg = HookedTransformerConfig(
        **widths, **own, attn_only=attn_only, act_fn="relu", normalization_type="LN", seed=0
    )
    model = HookedTransformer(cfg).eval()
    scores = mi.score_weights(model, torch.randint(0, 50, (2, 10)), "magnitude")
    wanted = ["W_Q", "W_K", "W_V", "W_O"] + ([] if attn_only else ["W_in", "W_out"])
    assert [place.component for place in scores.places] == wanted
    assert torch.equal(scores.scores["blocks.0.attn.W_O"], model.W_O[0].flatten(0, 1).abs())
    assert scores.top(1).hf_name.tolist() == [None]
