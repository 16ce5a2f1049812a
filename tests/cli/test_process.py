"""What only a process of its own shows: start, streams, exit code, files."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from mi_toolkit.heads.report import HeadReport
from tests.cli.process import MODULE, SCRIPT, finished


@pytest.mark.parametrize("command", [SCRIPT, MODULE], ids=["script", "module"])
def test_help_names_every_command(command: list[str]) -> None:
    done = finished("--help", command=command)
    assert done.returncode == 0
    assert done.stderr == ""
    for name in ("models", "describe", "classify", "view"):
        assert f"\n  {name} " in done.stdout


def test_help_imports_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "transformer_lens", "pandas", "matplotlib", "numpy", "tqdm"}
    program = (
        "import sys; from mi_toolkit.cli.main import run; run(['classify', '--help']); "
        f"print(sorted({heavy} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "--behaviours" in done.stdout
    assert done.stderr.strip() == "[]"


def test_the_table_of_models_imports_nothing_heavy() -> None:
    program = (
        "import sys; from mi_toolkit.cli.main import run; run(['models', '--all']); "
        "print(sorted({'torch', 'transformers'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.strip() == "[]"


def test_a_mistake_is_one_line_on_standard_error() -> None:
    done = finished("classify", "--modle", "gpt2")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("mi-toolkit: Unknown option: ")
    assert done.stderr.endswith("Try 'mi-toolkit classify --help'.\n")
    assert done.stderr.count("\n") == 1


def test_a_reader_that_stops_reading_sees_no_complaint() -> None:
    with subprocess.Popen(
        [*MODULE, "models", "--all"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        complaint = process.stderr.read()
    assert complaint == b""
    assert process.returncode == 141


def test_a_prompt_gives_a_table_and_files(classified: CompletedProcess[str], output: Path) -> None:
    assert classified.returncode == 0, classified.stderr
    assert classified.stderr == ""
    names = ["report.safetensors", "heads.csv", "page.html"]
    told = [line for line in classified.stdout.splitlines() if line.startswith("Wrote ")]
    assert told == [f"Wrote {output / name}" for name in names]
    assert sorted(path.name for path in output.iterdir()) == sorted(names)


def test_the_table_fits_its_width_and_is_plain_text(classified: CompletedProcess[str]) -> None:
    table = classified.stdout.partition("Wrote ")[0]
    assert max(map(len, table.splitlines())) <= 80
    assert "\x1b" not in table
    assert table.isprintable() or set(table) - {"\n"} == {c for c in table if c.isprintable()}
    for word in ("previous_token", "induction", "diffuse", "scope", "unclassified"):
        assert f"\n{word} " in table
    assert "first_token" not in table
    assert "copies, suppresses: what the head does to the logits" in table


def test_the_files_hold_the_report(classified: CompletedProcess[str], output: Path) -> None:
    report = HeadReport.load(output / "report.safetensors")
    assert report.provenance.model == "toy-gpt2"
    assert report.behaviours == ("previous_token", "induction", "locality", "diffuse")
    with (output / "heads.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert len(rows) == report.score.numel()
    assert float(rows[0]["score"]) == pytest.approx(float(report.score[0, 0, 0]), rel=1e-4)


def test_the_page_needs_no_network(classified: CompletedProcess[str], output: Path) -> None:
    page = (output / "page.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in page
    assert "toy-gpt2" in page


@pytest.mark.slow
def test_json_is_all_that_standard_output_holds(
    standard_json: tuple[CompletedProcess[str], dict[str, Any]],
) -> None:
    done, record = standard_json
    assert done.returncode == 0
    assert done.stderr == ""
    assert record["model"] == "toy-qwen2"
    assert (record["n_heads"], record["n_kv_heads"]) == (4, 2)
    assert record["written"] == []


@pytest.mark.slow
def test_json_has_each_figure_by_layer_and_head(
    standard_json: tuple[CompletedProcess[str], dict[str, Any]],
) -> None:
    _, record = standard_json
    induction = record["behaviours"]["induction"]
    assert induction["stimulus"] == "repeated_random"
    assert record["behaviours"]["locality"]["stimulus"] == "natural"
    assert record["behaviours"]["locality"]["null"][0][0] is None
    for name in record["labels"]["induction"]:
        layer, head = map(int, name.removeprefix("L").split("H"))
        assert induction["ci_low"][layer][head] >= record["min_lift"]
    shape = [len(row) for row in induction["lift"]]
    assert shape == [record["n_heads"]] * record["n_layers"]
    assert {scope for row in record["scope"] for scope in row} <= {
        "local",
        "global",
        "undetermined",
    }
