"""`mi-toolkit sensitivity` and `super-weights`, called as the command line calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from mi_toolkit.cli.app import run
from mi_toolkit.core.stimuli import halves
from mi_toolkit.weights.score import score_weights
from tests.conftest import ROOT
from tests.models_here import loaded

TEXT = str(ROOT / "tests" / "data" / "toy_text.txt")
SMALL = ["--data-file", TEXT, "--eval-limit", "3", "--max-length", "24"]
TWO = ["--metric", "grad_x_weight", "magnitude", "--topk", "5", "20"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("runs")
    tested = ["--perturb", "zero", "sign_flip", "--controls", "random", "--random-draws", "2"]
    stable = ["--seeds", "1", "2", "--fidelity", "10"]
    where = ["--output", str(made), "--experiment-id", "first"]
    assert run(["sensitivity", *SMALL, *TWO, *tested, *stable, *where, "--save-plots"]) == 0
    return made / "first"


@pytest.mark.slow
def test_a_run_writes_its_tables_and_a_manifest_that_says_nothing_of_the_machine(
    folder: Path,
) -> None:
    tops = [f"top_weights_{m}_{k}" for m in ("grad_x_weight", "magnitude") for k in (5, 20)]
    tables = [*tops, "perturbation", "effects", "fidelity", "trust", "stability"]
    expected = {f"{name}.{kind}" for name in tables for kind in ("csv", "parquet")}
    expected |= {"scores_grad_x_weight.safetensors", "scores_magnitude.safetensors"}
    expected |= {"manifest.json", "summary.json", "report.html"}
    for metric in ("grad_x_weight", "magnitude"):
        expected |= {f"{name}_{metric}.png" for name in ("fidelity", "layers", "heads")}
        expected |= {f"dose_curve_{metric}_{kind}.png" for kind in ("zero", "sign_flip")}
    assert {path.name for path in folder.iterdir()} == expected
    page = (folder / "report.html").read_text()
    assert "Critical weights of toy-gpt2" in page
    assert (
        page.count("Dose curve of") == 2 * 4
    )  # a heading and a picture each: two metrics, two kinds
    assert "grad_x_weight: layer by component" in page
    assert "grad_x_weight: heads" in page
    assert page.count(": how far to trust it</h2>") == 2
    assert page.count("data:image/svg+xml") == 4 + 2 + 2 + 2  # doses, fidelity, layers, heads
    assert "default-src 'none'" in page
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest) == {"format", "about", "parts"}
    assert set(manifest["about"]) == {
        "model",
        "revision",
        "backend",
        "dtype",
        "weights",
        "n_layers",
        "n_parameters",
        "texts",
        "versions",
    }
    assert str(folder.parent) not in (folder / "manifest.json").read_text()
    top = pd.read_parquet(folder / "top_weights_grad_x_weight_20.parquet")
    scoring, _ = halves(Path(TEXT).read_text().splitlines())
    model = loaded("toy-gpt2")
    scores = score_weights(model, scoring, eval_limit=3, max_length=24)
    pd.testing.assert_frame_equal(top, scores.top(20, model=model), check_dtype=False)
    perturbation = pd.read_csv(folder / "perturbation.csv")
    assert set(perturbation["kind"]) == {"none", "zero", "sign_flip"}
    assert set(perturbation["group"]) == {"baseline", "top", "random"}
    assert set(perturbation["k"]) == {0, 5, 20}
    summary = json.loads((folder / "summary.json").read_text())
    assert {row["metric"] for row in summary["effects"]} == {"grad_x_weight", "magnitude"}


def test_what_is_done_is_not_done_again_and_what_changed_is(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = ["sensitivity", *SMALL, "--metric", "grad_x_weight", "--topk", "7", "--verbose"]
    where = ["--output", str(folder)]
    assert run([*again, "--no-perturbation", *where]) == 0
    captured = capsys.readouterr()
    assert "Already done: scores of grad_x_weight." in captured.err
    assert "Highest by grad_x_weight, per model (7 weights)" in captured.out
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    changed = {name for name, time in after.items() if before.get(name) != time}
    made = {"top_weights_grad_x_weight_7.csv", "top_weights_grad_x_weight_7.parquet"}
    assert changed == {*made, "summary.json", "manifest.json", "report.html"}
    assert run([*again, "--no-perturbation", *where, "--layers", "1"]) == 0
    assert "Already done" not in capsys.readouterr().err
    layers = pd.read_parquet(folder / "top_weights_grad_x_weight_7.parquet")["layer"]
    assert set(layers) == {1}


def test_scope_ratios_and_scale_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    scope = ["--layers", "0", "2", "--components", "W_O", "--per", "layer", "--topk", "3"]
    tested = ["--perturb", "scale", "--perturb-scale", "0.5", "--perturbation-ratios", "0.001"]
    fewer = [
        "--controls",
        "bottom",
        "--fidelity",
        "0",
        "--fast-perturbation",
        "--batch-size",
        "2",
        "--json",
    ]
    device = ["--device", "auto", "--dtype", "float32"]
    assert run(["sensitivity", *SMALL, *scope, *tested, *fewer, *device]) == 0
    found = json.loads(capsys.readouterr().out)
    (top,) = found["top"]
    assert [row["parameter"] for row in top["weights"]] == [
        *["blocks.0.attn.W_O"] * 3,
        *["blocks.2.attn.W_O"] * 3,
    ]
    (effect,) = found["effects"]
    assert (effect["kind"], effect["k"]) == ("scale", round(0.001 * 2 * 128 * 128))
    assert effect["random_mean"] is None
    assert effect["bottom"] is not None


def test_fast_perturbation_takes_fewer_texts_for_the_baseline_too(tmp_path: Path) -> None:
    data = ["--data-file", TEXT, "--max-length", "12", "--topk", "2", "--metric", "magnitude"]
    counts = []
    for name, fast in (("slow", []), ("fast", ["--fast-perturbation"])):
        where = ["--output", str(tmp_path / name), "--controls", "random", "--fidelity", "0"]
        assert run(["sensitivity", *data, *where, *fast, "--random-draws", "7"]) == 0
        table = pd.read_parquet(tmp_path / name / "perturbation.parquet")
        assert table["n_tokens"].nunique() == 1
        counts.append((int(table["n_tokens"].iloc[0]), len(table)))
    assert counts == [(24 * 11, 1 + 1 + 7), (8 * 11, 1 + 1 + 5)]


def test_super_weights_prints_and_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    looked = ["super-weights", "toy-gpt2", *SMALL[:4], "--min-spike", "0.6"]
    assert run([*looked, "--output", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "not confirmed: " in out
    assert len(pd.read_csv(tmp_path / "super_weights.csv")) == out.count("confirmed: ")
    assert run([*looked[:-1], "1000"]) == 0
    assert "No write of any MLP stands out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--metric", "magnitud"], 2, "No weight scorer is called 'magnitud'"),
        (["--perturb", "zer"], 2, "No kind of perturbation is called 'zer'"),
        (["--controls", "randm"], 2, "No control is called 'randm'"),
        (["--topk", "0"], 2, "--topk must be 1 or more"),
        (["--perturbation-ratios", "1.5"], 2, "are shares: above 0, up to 1"),
        (["--seeds", "1"], 2, "--seeds needs two or more different numbers"),
        (["--experiment-id", "a"], 2, "--experiment-id goes with --output"),
        (["--save-plots"], 2, "--save-plots goes with --output"),
        (["--fidelity", "5"], 2, "Must be 0, or 10 or more"),
        (["--device", "cpu", "--device-map", "auto"], 1, "device_map= spreads a model"),
        (["--data-file", "/no/such/file"], 1, "/no/such/file cannot be read: No such file"),
        (["--model", "toy-gtp2"], 2, "Did you mean 'toy-gpt2'"),
        (["--layers", "9"], 2, "No layer is called '9'"),
        (["--topk", "99000000", "--no-perturbation"], 1, "k must be between 1 and the number"),
    ],
)
def test_a_mistake_is_one_line_and_a_code(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = [] if "--metric" in arguments else ["--metric", "magnitude"]
    assert run(["sensitivity", *chosen, *arguments]) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_an_output_that_cannot_be_written_and_a_file_of_one_text_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("one text\n")
    assert run(["sensitivity", "--output", str(tmp_path / "file" / "here")]) == 1
    assert "is a file, so there can be no folder" in capsys.readouterr().err
    assert run(["sensitivity", "--data-file", str(tmp_path / "file")]) == 1
    assert "holds 1 texts, one to a line" in capsys.readouterr().err
    (tmp_path / "image").write_bytes(bytes([255, 216, 255]))
    assert run(["sensitivity", "--data-file", str(tmp_path / "image")]) == 1
    assert "image cannot be read: it is no text in UTF-8" in capsys.readouterr().err
    (tmp_path / "manifest.json").write_text("{}")
    assert run(["sensitivity", *SMALL, "--output", str(tmp_path)]) == 1
    assert (
        "is of no sensitivity run, or of another version. Choose another folder"
        in capsys.readouterr().err
    )
