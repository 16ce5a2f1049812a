"""The export to HeadVis, read as its frontend reads it (src/lib/data.js, sparse.js)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import mi_toolkit as mi
from mi_toolkit.atlas import build
from mi_toolkit.atlas.headvis import intervals, max_activation, sparse_attention
from mi_toolkit.core.errors import PromptError, UnknownNameError
from mi_toolkit.core.passes import patterns_of
from tests.models_here import loaded
from tests.tiny_models import tiny_model

TEXTS = [f"Mary gave John the {n} keys, and John gave Mary the {n} books." for n in range(12)]
HEADS = ["L0H0", "L2H0"]
BITS = 1e-6


@pytest.fixture(scope="module")
def report() -> mi.HeadReport:
    return mi.classify_heads(loaded("toy-gpt2"), TEXTS)


@pytest.fixture(scope="module")
def data(report: mi.HeadReport, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    mi.atlas.export_headvis(loaded("toy-gpt2"), report, folder, heads=HEADS)
    return folder


def read(path: Path) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON to a browser")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_the_config_names_what_is_there(data: Path) -> None:
    config = read(data / "config.json")
    assert config["heads"] == [[0, 0], [2, 0]]
    assert (config["n_layers"], config["n_heads"], config["n_intervals"]) == (4, 4, 10)
    assert config["has_umap"] is False
    for layer, head in config["heads"]:
        name = config["head_data_pattern"].replace("{layer}", str(layer))
        assert (data / "heads" / name.replace("{head}", str(head))).is_file()
    shown = read(data / "heads" / "L0H0.json")
    assert {plot["key"] for plot in config["custom_plots"]} <= shown.keys()
    assert {table["key"] for table in config["custom_tables"]} <= shown.keys()


def test_metrics_are_the_report_s_figures(data: Path, report: mi.HeadReport) -> None:
    config, rows = read(data / "config.json"), read(data / "scatter_data.json")
    assert set(config["metrics"]) == set(rows[0]) - {"layer", "head"}
    assert set(config["metric_descriptions"]) == set(config["metrics"])
    for row in rows:
        for name in config["metrics"]:
            figure = float(report[name][row["layer"], row["head"]])
            assert row[name] is None if math.isnan(figure) else row[name] == round(figure, 4)


def test_attention_is_the_pattern_s_strongest_keys(data: Path, report: mi.HeadReport) -> None:
    shown = read(data / "heads" / "L2H0.json")["sequences"]
    assert [sequence["sequence_id"] for sequence in shown] == list(range(12))
    ids = report.tokens["prompt"].sequence(3)
    pattern = patterns_of(loaded("toy-gpt2"), ids[None], [2])[2][0, 0]
    sequence, n = shown[3], len(ids)
    assert sequence["seq_len"] == len(sequence["tokens"]) == n
    for index, value in zip(
        sequence["attention_indices"], sequence["attention_values"], strict=True
    ):
        assert value == pytest.approx(float(pattern[index // n, index % n]), abs=1e-4)
    kept = torch.zeros(n * n)
    kept[sequence["attention_indices"]] = 1
    assert kept.view(n, n).sum(dim=1).max() <= 8
    assert "".join(sequence["tokens"][1:]) == TEXTS[3]


def test_the_frontend_finds_the_same_maximum(data: Path) -> None:
    for sequence in read(data / "heads" / "L0H0.json")["sequences"]:
        n, best = sequence["seq_len"], 0.0
        pairs = zip(sequence["attention_indices"], sequence["attention_values"], strict=True)
        for index, value in pairs:  # findMax of sparse.js, and off the diagonal
            row, column = divmod(index, n)
            if row and column and row != column:
                best = max(best, value)
        assert sequence["max_activation"] == pytest.approx(best, abs=2e-4)


@pytest.mark.parametrize("head", HEADS)
def test_the_strongest_tenth_is_interval_ten(data: Path, report: mi.HeadReport, head: str) -> None:
    """By what was measured: of a head that is near 1 everywhere, what is written is all alike."""
    shown = read(data / "heads" / f"{head}.json")["sequences"]
    layer, batch = int(head[1]), report.tokens["prompt"]
    found = []
    for index in range(len(batch)):
        pattern = patterns_of(loaded("toy-gpt2"), batch.sequence(index)[None], [layer])[layer]
        square = pattern[0, int(head[3])].fill_diagonal_(0)
        found.append(float(square[1:, 1:].max()))
    # Padded, as the export runs them, the last bits are others.
    for sequence, own in zip(shown, found, strict=True):
        n_below = sum(other < own - BITS for other in found)
        n_up_to = sum(other <= own + BITS for other in found)
        lowest, highest = (math.ceil(n * 10 / len(found)) for n in (n_below + 1, n_up_to))
        assert lowest <= sequence["interval"] <= highest


def test_a_model_without_a_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    model = mi.load_model("tiny", hf_model=tiny_model("llama"), tokenizer=None)
    made = mi.classify_heads(model, [list(range(20))] * 3)
    with pytest.raises(PromptError, match="has no tokenizer, so it cannot read the tokens"):
        mi.atlas.export_headvis(model, made, tmp_path)


def test_intervals_cut_equal_parts() -> None:
    assert intervals([float(n) for n in range(20)]) == [n // 2 + 1 for n in range(20)]


def test_sparse_attention_drops_what_is_weak_and_keeps_order() -> None:
    pattern = torch.tensor([[1.0, 0.0, 0.0], [0.997, 0.003, 0.0], [0.2, 0.5, 0.3]])
    indices, values = sparse_attention(pattern)
    assert indices == [0, 3, 6, 7, 8]
    assert values == [1.0, 0.997, 0.2, 0.5, 0.3]
    assert max_activation(pattern) == 0.5


def test_tables_and_histogram_have_the_shapes_of_the_contract(data: Path) -> None:
    shown = read(data / "heads" / "L0H0.json")
    histogram = shown["qk_distance_histogram"]
    assert len(histogram["bin_values"]) == len(histogram["bin_edges"]) - 1
    assert max(histogram["bin_values"]) == histogram["bin_values"][1]  # a previous-token head
    weights = [row["weight"] for row in shown["top_key_tokens"]]
    assert weights == sorted(weights, reverse=True)
    assert set(shown["top_key_tokens"][0]) == {"token", "weight"}


def test_a_head_that_is_not_there_is_an_error(report: mi.HeadReport, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="'L9H9'"):
        mi.atlas.export_headvis(loaded("toy-gpt2"), report, tmp_path, heads=["L9H9"])


@pytest.mark.slow
def test_a_model_of_an_atlas_whose_export_is_not_whole_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    atlas = mi.head_atlas(["toy-gpt2"], tmp_path, headvis=True)
    exported = atlas.model_folder("toy-gpt2") / "headvis" / "heads" / "L0H0.json"
    assert "headvis/heads/L0H0.json" in atlas.provenance("toy-gpt2")["files"]
    monkeypatch.setattr(build, "load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    mi.head_atlas(["toy-gpt2"], tmp_path, headvis=True)
    exported.unlink()
    with pytest.raises(pytest.fail.Exception, match="a model was loaded"):
        mi.head_atlas(["toy-gpt2"], tmp_path, headvis=True)
