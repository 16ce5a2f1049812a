"""Runs side by side, from folders whose tops are known."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest

from mi_toolkit.cli.app import run
from mi_toolkit.core.errors import ReportError, WeightError
from mi_toolkit.draw.comparison import view_runs
from mi_toolkit.weights.run_comparison import compare_runs
from mi_toolkit.weights.study import Settings, run_study
from tests.conftest import ROOT
from tests.models_here import loaded, untouched
from tests.weights.toy_text import TOY_TEXT

TEXT = str(ROOT / "tests" / "data" / "toy_text.txt")
SCORED = ["--metric", "magnitude", "--topk", "5", "20", "--no-perturbation", "--data-file", TEXT]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    made = tmp_path_factory.mktemp("runs")
    scopes = {
        "gpt2": ["--model", "toy-gpt2"],
        "gpt2-last": ["--model", "toy-gpt2", "--layers", "3", "--components", "W_out"],
        "qwen2": ["--model", "toy-qwen2", "--components", "W_gate", "--layers", "0"],
    }
    for name, scope in scopes.items():
        assert run(["sensitivity", *SCORED, *scope, "--output", str(made / name)]) == 0
    return [made / name for name in scopes]


def test_depth_components_and_overlap_are_those_of_the_tops(folders: list[Path]) -> None:
    (found,) = compare_runs(folders)
    assert (found.metric, found.k) == ("magnitude", 20)
    table, ones = found.to_pandas().set_index("run"), pytest.approx([1, 1, 1])
    assert table.loc["gpt2-last", ["mean_depth", "last_third", "in_W_out"]].tolist() == ones
    assert table.loc["qwen2", ["mean_depth", "first_third", "in_W_gate"]].tolist() == pytest.approx(
        [0, 1, 1]
    )
    assert table["n_layers"].tolist() == [4, 4, 4]
    assert table.loc["gpt2", "same_weights_as_first"] == 1
    # Other matrices: no overlap by weights. Other places: none by places.
    assert math.isnan(float(found.weights[0, 2]))
    assert float(found.places[1, 2]) == 0
    assert float(found.places[0, 0]) == pytest.approx(1)
    for run_ in found.runs:
        assert sum(run_.profile) == pytest.approx(1)
        assert sum(run_.components.values()) == pytest.approx(1)
    first = {(row["parameter"], row["row"]) for row in found.runs[0].top}
    last = {(row["parameter"], row["row"]) for row in found.runs[1].top}
    assert all(name == "blocks.3.mlp.W_out" for name, _ in last)
    assert first - last
    title, *lines = repr(found).splitlines()
    assert title == "RunComparison of 3 runs: the top 20 by magnitude"
    assert lines[0].split() == ["gpt2", "gpt2-last", "qwen2"]


def test_the_same_run_twice_overlaps_fully(folders: list[Path]) -> None:
    (found,) = compare_runs([folders[0], folders[0]])
    assert found.weights.tolist() == [[1, 1], [1, 1]]
    assert found.places.flatten().tolist() == pytest.approx([1] * 4)


def test_effects_of_one_kind_of_change_are_compared(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    quick = ["--metric", "magnitude", "--topk", "5", "--fast-perturbation", "--random-draws", "3"]
    for name, how in {
        "both": ["zero", "sign_flip"],
        "flipped": ["sign_flip"],
        "scaled": ["scale", "--perturb-scale", "0.5"],
    }.items():
        asked = ["--model", "toy-gpt2", "--data-file", TEXT, "--perturb", *how]
        assert run(["sensitivity", *quick, *asked, "--output", str(tmp_path / name)]) == 0
    (found,) = compare_runs([tmp_path / "both", tmp_path / "flipped"])
    rows = list(found.rows())
    assert [row["changed_how"] for row in rows] == ["sign_flip"] * 2
    assert rows[0]["loss_rise"] == pytest.approx(rows[1]["loss_rise"])
    own = sum(each.numel() for each in untouched("toy-gpt2").parameters())
    assert rows[0]["n_parameters"] == own
    (found,) = compare_runs([tmp_path / "both", tmp_path / "scaled"])
    assert [row["loss_rise"] for row in found.rows()] == [None, None]
    assert "tested in all of the runs (zero, sign_flip; scale by 0.5)" in caplog.text


def test_the_command_writes_one_table_and_one_picture(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    command = ["sensitivity", "compare", *map(str, folders), "--output", str(tmp_path)]
    assert run([*command, "--html", str(page)]) == 0
    assert "RunComparison of 3 runs" in capsys.readouterr().out
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"comparison_magnitude.csv", "comparison_magnitude.png", "page.html"}
    assert "weights by magnitude" in page.read_text()
    assert "View of The top" in repr(view_runs(compare_runs(folders)[0]))
    assert run(["sensitivity", "compare", *map(str, folders), "--json"]) == 0
    assert capsys.readouterr().out.startswith('[{"run": "gpt2"')


def test_what_cannot_be_compared_is_told(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(WeightError, match="needs two or more runs"):
        compare_runs(folders[:1])
    with pytest.raises(ReportError, match=r"holds no sensitivity run: it has no manifest\.json"):
        compare_runs([folders[0], tmp_path])
    other = Settings(metrics=("random",), topk=(5,))
    some = {"texts": TOY_TEXT[:4], "folder": tmp_path / "other", "perturbing": False}
    run_study(loaded("toy-gpt2"), other, **some)
    with pytest.raises(WeightError, match=r"no metric and number .* \(.*gpt2: magnitude 5, magn"):
        compare_runs([folders[0], tmp_path / "other"])
    # An interrupted run that was making this list anew.
    copied = Path(shutil.copytree(folders[0], tmp_path / "cut"))
    (copied / "top_weights_magnitude_20.csv").write_text("1,2,3")
    with pytest.raises(ReportError, match=r"holds half of a run: .*_20\.csv is damaged"):
        compare_runs([folders[0], copied])
    assert run(["sensitivity", "compare", str(folders[0])]) == 1
    assert "needs two or more runs" in capsys.readouterr().err
