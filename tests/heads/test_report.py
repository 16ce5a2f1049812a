"""Reports: questions, tables, files."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from mi_toolkit.core.errors import ReportError, UnknownNameError
from mi_toolkit.core.head import Head
from mi_toolkit.core.result import save_record
from mi_toolkit.heads.classify import classify_heads
from mi_toolkit.heads.report import HeadReport
from tests.models_here import loaded


@pytest.fixture(scope="module")
def standard() -> HeadReport:
    return classify_heads(loaded("toy-qwen2"))


def test_heads_come_strongest_first_and_only_those_labelled(standard: HeadReport) -> None:
    row = standard.label_names.index("previous_token")
    heads = standard.heads("previous_token")
    assert heads
    assert {tuple(head) for head in heads} == {
        tuple(i) for i in standard.labels[row].nonzero().tolist()
    }
    lifts = [float(standard["previous_token"][head]) for head in heads]
    assert lifts == sorted(lifts, reverse=True)
    assert "previous_token" in standard.labels_of(heads[0])


def test_every_head_has_one_scope_and_the_unlabelled_are_unclassified(standard: HeadReport) -> None:
    scopes = [head for scope in standard.scope_names for head in standard.heads(scope)]
    assert len(scopes) == len(set(scopes)) == standard.scope.numel()
    assert all(standard.labels_of(head) == [] for head in standard.heads("unclassified"))


def test_query_heads_know_the_key_value_head_they_share(standard: HeadReport) -> None:
    assert standard.n_kv_heads == 2
    assert [standard.kv_head(Head(0, head)) for head in range(4)] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda r: r["inductio"], "No behaviour, layer or head .* Did you mean 'induction'"),
        (lambda r: r.heads("locl"), "No label of this report .* Did you mean 'local'"),
        (lambda r: r.on("naturl"), "No stimulus of this report .* Did you mean 'natural'"),
    ],
)
def test_a_question_that_a_report_cannot_answer(standard: HeadReport, ask, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        ask(standard)


def test_the_table_has_a_row_per_stimulus_behaviour_and_head(standard: HeadReport) -> None:
    table = standard.to_pandas()
    assert len(table) == 2 * len(standard.behaviours) * standard.scope.numel()
    assert not table.duplicated(["stimulus", "behaviour", "layer", "head"]).any()
    home = table[table["home"] & (table["behaviour"] == "induction")]
    assert set(home["stimulus"]) == {"repeated_random"}
    row = home[(home["layer"] == 1) & (home["head"] == 2)].iloc[0]
    assert row["lift"] == pytest.approx(float(standard["induction"][1, 2]))
    assert row["name"] == "L1H2"


@pytest.mark.parametrize("prompt", [None, "Mary and John went home. Mary and John slept. Mary"])
def test_a_report_comes_back_from_a_file(prompt: str | None, tmp_path) -> None:
    report = classify_heads(loaded("toy-gpt2"), prompt)
    report.save(tmp_path / "heads.safetensors")
    again = HeadReport.load(tmp_path / "heads.safetensors")
    assert repr(again) == repr(report)
    assert again.record() == report.record()
    assert again.to_pandas().equals(report.to_pandas())
    assert torch.equal(again.labels, report.labels)
    assert [path.name for path in tmp_path.iterdir()] == ["heads.safetensors"]


def test_an_interrupted_save_leaves_the_old_file(
    tmp_path, monkeypatch, standard: HeadReport
) -> None:
    path = tmp_path / "heads.safetensors"
    standard.save(path)
    before = path.read_bytes()

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mi_toolkit.core.result.save_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        standard.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_report_says_so(tmp_path) -> None:
    with pytest.raises(ReportError, match="No head report at"):
        HeadReport.load(tmp_path / "missing")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ReportError, match="is no safetensors file, or is damaged"):
        HeadReport.load(tmp_path / "text")
    save_file({"x": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(ReportError, match="holds no head report of this version"):
        HeadReport.load(tmp_path / "other")


def test_names_are_escaped_in_html() -> None:
    from dataclasses import replace

    report = classify_heads(loaded("toy-gpt2"), "Mary and John")
    hostile = replace(report, provenance=replace(report.provenance, model="<script>alert(1)"))
    assert "<script>" not in hostile._repr_html_()
    assert "&lt;script&gt;" in hostile._repr_html_()


def test_a_report_of_an_older_version_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "before.safetensors"
    save_record(path, format="mi_toolkit head report 3", tensors={}, record={})
    with pytest.raises(ReportError, match="older version: classify the heads again"):
        HeadReport.load(path)


def test_a_file_holds_each_part_of_a_report_once_and_gives_the_whole_back(tmp_path: Path) -> None:
    path = tmp_path / "report.safetensors"
    report = classify_heads(loaded("toy-gpt2"))
    report.save(path)
    again = HeadReport.load(path)
    assert list(again.parts) == list(report.parts)
    for field in fields(report):
        kept, there = getattr(again, field.name), getattr(report, field.name)
        if isinstance(there, torch.Tensor):
            assert torch.equal(kept.nan_to_num(7), there.nan_to_num(7)), field.name
        elif field.name not in ("parts", "tokens"):
            assert kept == there, field.name
    for stimulus, batch in report.tokens.items():
        assert torch.equal(again.tokens[stimulus].ids, batch.ids)
        assert again.tokens[stimulus].ids.dtype == batch.ids.dtype
    pd.testing.assert_frame_equal(again.to_pandas(), report.to_pandas())
