"""Notebooks run from top to bottom and are committed without outputs; examples run as scripts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
MOST_CODE_CELLS = 16

# What a cell says of models that are not here, and what it runs on instead. Each is found once.
INSTEAD: Mapping[str, Mapping[str, str]] = {
    "02_architectures": {"SIZES = []": 'SIZES = ["toy-pythia", "toy-gpt2"]'},
}


def read(path: Path) -> Any:
    nbformat = pytest.importorskip("nbformat")
    return nbformat.read(path, as_version=4)


def code_of(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_notebook_asks_shows_and_sets_an_exercise(path: Path) -> None:
    notebook = read(path)
    code = code_of(notebook)
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert len(code) <= MOST_CODE_CELLS
    assert max(len(cell.source.splitlines()) for cell in code) <= 16
    first, last = notebook.cells[0], notebook.cells[-1]
    assert re.match(r"# .*\?\n", first.source)
    assert "**Exercise.**" in last.source
    assert [cell.id for cell in notebook.cells] == [
        f"cell-{index:02d}" for index in range(len(notebook.cells))
    ]
    # What follows a figure reads it.
    for cell, following in zip(notebook.cells, notebook.cells[1:], strict=False):
        if cell.cell_type == "code" and re.search(r"mi\.view_|figures\.|ax\.plot", cell.source):
            assert following.cell_type == "markdown"
            assert not following.source.startswith("#")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_notebook_runs_offline_and_shows_something(path: Path, tmp_path: Path) -> None:
    from nbclient import NotebookClient

    notebook = read(path)
    for named, instead in INSTEAD.get(path.stem, {}).items():
        (cell,) = [cell for cell in code_of(notebook) if named in cell.source]
        cell.source = cell.source.replace(named, instead)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=600, resources=resources).execute()
    outputs = [output for cell in code_of(notebook) for output in cell.outputs]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert kinds & {"text/html", "image/png"}
    said = [line for output in outputs for line in output.get("text", "").splitlines()]
    assert not [line for line in said if "Warning" in line]


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_as_a_script_and_stays_short(path: Path, tmp_path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 60
    environment = {name: v for name, v in os.environ.items() if not name.startswith("SLURM_")}
    shown = subprocess.run(
        [sys.executable, str(path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        env=environment,
    )
    assert shown.returncode == 0, shown.stderr
    assert "toy-" in shown.stdout
    for name in re.findall(r"Writes? `([\w.]+)`|and `([\w.]+)`", path.read_text(encoding="utf-8")):
        assert (tmp_path / "".join(name)).stat().st_size > 0
