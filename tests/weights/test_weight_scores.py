"""The tables of scores, and scores on disk."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from mi_toolkit.cli.sensitivity import top_lines
from mi_toolkit.core.errors import ReportError, UnknownNameError, WeightError
from mi_toolkit.draw.weights import view_weights
from mi_toolkit.heads.classify import classify_heads
from mi_toolkit.models.load import load_model
from mi_toolkit.weights.parameters import weight_matrices
from mi_toolkit.weights.score import score_weights
from mi_toolkit.weights.weight_scores import WeightScores
from tests.models_here import loaded
from tests.weights.test_scorers import TEXTS


@pytest.fixture(scope="module")
def scores() -> WeightScores:
    return score_weights(loaded("toy-qwen2"), TEXTS, "grad_x_weight")


def test_the_top_is_that_of_all_scores_sorted_and_names_head_neuron_and_checkpoint(scores) -> None:
    table = scores.top(200, model=loaded("toy-qwen2"))
    flat = torch.cat([score.flatten() for score in scores.scores.values()])
    expected = flat.sort(descending=True).values[:200]
    torch.testing.assert_close(torch.tensor(table["score"].tolist()), expected)
    assert table["rank"].tolist() == list(range(1, 201))
    matrices = {matrix.name: matrix for matrix in weight_matrices(loaded("toy-qwen2"))}
    for row in table.itertuples():
        matrix = matrices[row.parameter]
        assert row.weight == float(matrix.value()[row.row, row.column])
        assert row.score == float(scores.scores[row.parameter][row.row, row.column])
        assert (row.hf_row, row.hf_column) == (row.column, row.row)  # Linear: [out, in]
        assert row.hf_name == matrix.hf.name
        unit = {"W_O": row.row // 32, "W_Q": row.column // 32}.get(row.component)
        neuron = {"W_out": row.row, "W_in": row.column, "W_gate": row.column}.get(row.component)
        shared = row.column // 32 if row.component in ("W_K", "W_V") else None
        for ours, theirs in ((row.head, unit), (row.neuron, neuron), (row.kv_head, shared)):
            assert (None if pd.isna(ours) else ours) == theirs


def test_a_top_per_layer_and_per_matrix_ranks_each_by_itself(scores) -> None:
    by_layer = scores.top(5, per="layer")
    assert by_layer.groupby("layer").size().tolist() == [5] * 4
    assert by_layer.groupby("layer")["rank"].max().tolist() == [5] * 4
    by_matrix = scores.top(3, per="matrix")
    assert by_matrix.groupby("parameter").size().tolist() == [3] * 28
    for name, group in by_matrix.groupby("parameter"):
        assert group["score"].max() == float(scores.scores[name].max())
    with pytest.raises(UnknownNameError, match="No scope of a ranking is called 'head'"):
        scores.top(3, per="head")


def test_sums_by_head_neuron_and_layer_add_up(scores) -> None:
    heads, neurons, layers = scores.by_head(), scores.by_neuron(), scores.by_layer()
    assert (len(heads), len(neurons), len(layers)) == (16, 4 * 384, 28)
    assert heads["share"].sum() + neurons["share"].sum() == pytest.approx(1)
    assert layers["share"].sum() == pytest.approx(1)
    head = heads[heads["name"] == "L1H2"].iloc[0]
    queries = scores.scores["blocks.1.attn.W_Q"][:, 64:96].sum()
    # Query heads 2 and 3 share key and value head 1.
    keys = scores.scores["blocks.1.attn.W_K"][:, 32:64].sum() / 2
    outputs = scores.scores["blocks.1.attn.W_O"][64:96].sum()
    assert head["W_Q"] == pytest.approx(float(queries), rel=1e-5)
    assert head["W_K"] == pytest.approx(float(keys), rel=1e-5)
    assert head["W_O"] == pytest.approx(float(outputs), rel=1e-5)
    neuron = neurons[(neurons["layer"] == 2) & (neurons["neuron"] == 17)].iloc[0]
    into = scores.scores["blocks.2.mlp.W_gate"][:, 17].sum()
    assert neuron["W_gate"] == pytest.approx(float(into), rel=1e-5)
    out = scores.scores["blocks.2.mlp.W_out"][17].sum()
    assert neuron["W_out"] == pytest.approx(float(out), rel=1e-5)


def test_heads_that_were_not_asked_for_have_no_row_and_no_part_of_shared_keys() -> None:
    asked = score_weights(loaded("toy-qwen2"), TEXTS, "magnitude", heads=["L0H3", "L1H0", "L1H1"])
    heads = asked.by_head()
    assert heads["name"].tolist() == ["L0H3", "L1H0", "L1H1"]
    assert heads["share"].sum() == pytest.approx(1)
    # Query heads 2 and 3 share key and value head 1, whose weights are all meant by L0H3.
    keys = asked.scores["blocks.0.attn.W_K"][:, 32:64].sum()
    assert heads["W_K"].iloc[0] == pytest.approx(float(keys), rel=1e-5)


def test_shared_keys_alone_are_no_sums_of_query_heads() -> None:
    shared = score_weights(loaded("toy-qwen2"), TEXTS, "magnitude", components=["W_K", "W_V"])
    with pytest.raises(WeightError, match="score W_Q or W_O along with them"):
        shared.by_head()
    assert view_weights(shared).heads == ()
    own = score_weights(loaded("toy-gpt2"), TEXTS, "magnitude", components=["W_K", "W_V"])
    assert len(own.by_head()) == 16


def test_tables_say_which_kind_of_head_a_weight_is_in(scores) -> None:
    report = classify_heads(loaded("toy-qwen2"), "a b c a b c a b c a b c", progress=False)
    heads = scores.by_head(report)
    for row in heads.itertuples():
        assert row.labels == (", ".join(report.labels_of(row.name)) or "unclassified")
    top = scores.top(50, report=report)
    assert top["labels"].isna().tolist() == top["head"].isna().tolist()


def test_what_was_not_scored_has_no_table() -> None:
    only_mlp = score_weights(loaded("toy-gpt2"), TEXTS, "magnitude", components="mlp")
    with pytest.raises(WeightError, match="No matrix of attention was scored"):
        only_mlp.by_head()
    only_attention = score_weights(loaded("toy-gpt2"), TEXTS, "magnitude", components="attn")
    with pytest.raises(WeightError, match="No matrix of an MLP was scored"):
        only_attention.by_neuron()


def test_scores_come_back_from_disk_and_rank_again(scores, tmp_path: Path) -> None:
    path = tmp_path / "scores.safetensors"
    scores.save(path)
    again = WeightScores.load(path)
    assert again.provenance == scores.provenance
    assert again.places == scores.places
    for model in (None, loaded("toy-qwen2")):
        assert again.top(30, model=model).equals(scores.top(30, model=model))
    assert "weight" not in again.top(30)
    with pytest.raises(WeightError, match="these are scores of toy-qwen2"):
        again.top(30, model=loaded("toy-gpt2"))
    with pytest.raises(ReportError, match="No weight scores at"):
        WeightScores.load(tmp_path / "none.safetensors")


def test_a_result_says_what_it_is(scores) -> None:
    assert repr(scores).startswith("WeightScores of toy-qwen2 by grad_x_weight: ")
    assert repr(scores.places[0]).startswith("ParameterInfo(name='blocks.0.attn.W_Q'")
    assert repr(weight_matrices(load_model("toy-gpt2"))[0]) == (
        "embed.W_E [1024, 128] = transformer.wte.weight"
    )


def test_a_ranking_of_noise_says_so_wherever_it_is_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = loaded("toy-gpt2")
    scope = {"layers": [1], "components": ["W_Q"]}
    scores = score_weights(model, TEXTS[:1], "hessian_diag", n_probes=5, **scope)
    ranking = scores.ranking(30)
    warning = ranking.noise.warning
    assert warning is not None
    assert warning.endswith("use more probes (n_probes, here 5) or another score.")
    assert f"hessian_diag: {warning}" in caplog.messages
    # The halves are those of 2 and of 3 probes, whatever came to rank them.
    two = score_weights(model, TEXTS[:1], "hessian_diag", n_probes=2, **scope)
    (name,) = two.scores
    assert torch.equal(scores.first_half[name], two.scores[name])
    three = (5 * scores.scores[name] - 2 * two.scores[name]) / 3
    halves = [two.scores[name].flatten(), three.flatten()]
    tops = [half.topk(30).indices for half in halves]
    claimed = sum(float(half[top].sum()) for half, top in zip(halves, tops, strict=True))
    held = sum(float(half[top].sum()) for half, top in zip(halves[::-1], tops, strict=True))
    assert ranking.noise.kept == pytest.approx(held / claimed, abs=1e-4)
    shared = len(set(tops[0].tolist()) & set(tops[1].tolist())) / 30
    assert ranking.noise.shared == pytest.approx(shared)
    table = scores.top(30, model=model)
    assert table["standard_error"].tolist() == ranking.standard_errors.tolist()
    assert table.attrs["warning"] == warning
    table.to_parquet(tmp_path / "top.parquet")
    assert pd.read_parquet(tmp_path / "top.parquet").attrs == table.attrs
    assert " ± " in repr(scores)
    assert "use more probes" in repr(scores)
    view = view_weights(scores, 30)
    assert f"Warning: {warning}" in view.section().caption
    assert " ± " in view.section().body
    assert " ± " in top_lines(table)
    scores.save(tmp_path / "scores.safetensors")
    assert WeightScores.load(tmp_path / "scores.safetensors").ranking(30).noise == ranking.noise
    layers = scores.ranking(10, per="layer")
    assert layers.noise.n == 10
    exact = score_weights(model, TEXTS[:1], "magnitude", **scope)
    assert exact.ranking(30).noise is None
    assert "standard_error" not in exact.top(30)
    assert "warning" not in exact.top(30).attrs
