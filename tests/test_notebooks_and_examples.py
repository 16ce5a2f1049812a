"""Notebooks run from top to bottom and are committed without outputs; examples run as scripts."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import runpy
import shlex
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mi_toolkit.models.sources import find_source

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


def ready_to_run(path: Path) -> Any:
    """A notebook whose cells name models that are here."""
    notebook = read(path)
    for named, instead in INSTEAD.get(path.stem, {}).items():
        (cell,) = [cell for cell in code_of(notebook) if named in cell.source]
        cell.source = cell.source.replace(named, instead)
    return notebook


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """IPython in this process, which has everything imported: what a kernel runs cells in."""
    pytest.importorskip("IPython")
    import matplotlib.pyplot as plt
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    class Shell(InteractiveShell):
        def enable_gui(self, gui: str | None = None) -> None:
            """There is no window to run a loop for."""

    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("TOY_TRAINING", str(ROOT / "tests" / "data" / "toy-training"))
    monkeypatch.chdir(tmp_path)
    backend = plt.get_backend()
    made = Shell.instance(config=Config(HistoryManager={"enabled": False}))
    made.enable_matplotlib("inline")
    yield made
    plt.close("all")
    plt.switch_backend(backend)
    Shell.clear_instance()


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_offline_and_shows_something(path: Path, shell: Any) -> None:
    from IPython.utils.capture import capture_output

    kinds: set[str] = set()
    for cell in code_of(ready_to_run(path)):
        with capture_output() as shown:
            ran = shell.run_cell(cell.source)
        ran.raise_error()
        result, _ = shell.display_formatter.format(ran.result)
        kinds |= {*result, *(kind for output in shown.outputs for kind in output.data)}
        assert "Warning" not in shown.stdout + shown.stderr
    assert kinds & {"text/html", "image/png"}


TRACKED = """
import time
from mi_toolkit.core.progress import track
for _ in track(range(6), total=6, label="Working", unit="step", show=None):
    time.sleep(0.5)
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_notebook_runs_in_a_kernel_of_its_own(tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = ready_to_run(NOTEBOOKS[0])
    notebook.cells.append(nbformat.v4.new_code_cell(TRACKED))
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    asyncio.run(client.async_execute())
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        gc.collect()  # the loop of jupyter_client's heartbeat, which it leaves open
    outputs = [output for cell in code_of(notebook) for output in cell.outputs]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert kinds & {"text/html", "image/png"}
    said = [line for output in outputs for line in output.get("text", "").splitlines()]
    assert not [line for line in said if "Warning" in line]
    # No line of progress stays, in red or otherwise: one output was drawn over, and emptied.
    assert not [output for output in outputs if output.get("name") == "stderr"]
    (bar,) = notebook.cells[-1].outputs
    assert bar.data == {"text/plain": "", "text/html": ""}


def example(name: str, arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run an example as a script with these arguments."""
    path = ROOT / "examples" / f"{name}.py"
    for variable in [each for each in os.environ if each.startswith("SLURM_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setattr(sys, "argv", [str(path), *arguments])
    return runpy.run_path(str(path), run_name="__main__")


ASKED: Mapping[str, tuple[str, str]] = {
    "attention_only": ("--steps 2 --heads 2 --seed 1", r"(?s)step 0: previous_token 0.*step 2: .*"),
    "compare_families": ("toy-opt --behaviours first_token", r"toy-opt: .*\n  first_token .*"),
    "paper_figure": ("toy-pythia --output .", r"toy-pythia: \d+ labels in heads.csv.*"),
    "scaling_study": (
        "toy-gpt2 toy-opt --behaviours first_token",
        r"(?s)One size.*toy-gpt2 +first_token +\d.*toy-opt +first_token.*Wrote .*",
    ),
    "slurm_sweep": ("run toy-opt --lengths 8 16 --output .", r"task 0: toy-opt done, in toy-opt"),
    "sweep_figure": (
        "toy-opt 'Mary and John went to' --target ' the' --how mean --top 3",
        r"toy-opt: ' the' rests most on L\dH\d; sweep.pdf",
    ),
}
"""What each example is asked, and all that it then says."""


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_has_help_that_names_what_it_takes(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 65
    with pytest.raises(SystemExit) as ended:
        example(path.stem, ["--help"], monkeypatch)
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert text.split('"""')[1].partition("\n")[0] in " ".join(shown.split())
    asked = re.findall(r'add_argument\("([\w-]+)"', text)
    assert asked
    assert all(re.search(rf"(?m)^  {name}\b", shown) for name in asked)
    with pytest.raises(SystemExit):
        example(path.stem, ["--no-such-option"], monkeypatch)
    assert "--no-such-option" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ASKED)
def test_an_example_does_what_its_arguments_ask(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, said = ASKED[name]
    example(name, shlex.split(arguments), monkeypatch)
    out = capsys.readouterr().out
    assert re.fullmatch(said, out.strip()), out
    text = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")
    for file in re.findall(r"`(\w+\.(?:csv|tex|pdf))`", text):
        assert (tmp_path / file).stat().st_size > 0
    for table in tmp_path.glob("*.tex"):
        assert latex_errors(table.read_text(encoding="utf-8")) == []


def latex_errors(text: str) -> list[str]:
    """What would keep a LaTeX table from compiling, or from being what it should.

    It reads what pandas writes: environments, rows of cells, commands, escaped characters.
    """
    found = []
    (columns,) = re.findall(r"\\begin\{tabular\}\{([lrc]+)\}", text)
    names = re.findall(r"\\(begin|end)\{(\w+)\}", text)
    if names != [("begin", "tabular"), ("end", "tabular")]:
        found.append(f"environments {names}")
    bare = re.sub(r"\\(begin|end)\{tabular\}(\{\w+\})?|\\(top|mid|bottom)rule", "", text)
    for line in filter(str.strip, bare.splitlines()):
        row, ended, after = line.partition(r"\\")
        plain = re.sub(r"\\[_&%#${}]|\\text\w+(\{\})?", "", row)
        if not ended or after.strip() or plain.count("&") != len(columns) - 1:
            found.append(f"no row of {len(columns)} cells: {line}")
        if re.search(r"[\\_%#$^~{}]", plain):
            found.append(f"not escaped: {line}")
    return found


def test_a_table_that_latex_would_refuse_is_found() -> None:
    import pandas as pd

    table = pd.DataFrame({"label_a": ["previous_token"], "b": ["50% & more"]})
    assert latex_errors(table.to_latex(index=False, escape=True)) == []
    wrong = latex_errors(table.to_latex(index=False, escape=False))
    assert [each.partition(":")[0] for each in wrong] == [
        "not escaped",
        "no row of 2 cells",
        "not escaped",
    ]


@pytest.mark.slow
def test_a_checkpoint_that_is_named_is_the_one_that_is_classified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoint").mkdir()  # left from another run: nobody asked for it
    mine = find_source("toy-opt").location
    prompt = ["--prompt", "a b c a b c a b c a b c"]
    example("classify_checkpoint", [mine, "--base", "toy-gpt2", *prompt], monkeypatch)
    out = capsys.readouterr().out
    assert re.search(rf"\d of 16 heads of toy-gpt2 carry other labels in {mine}\n", out)
    assert "->" in out
    assert "toy-opt" in (tmp_path / "checkpoint_heads.csv").read_text()
    with pytest.raises(SystemExit):
        example("classify_checkpoint", [mine], monkeypatch)
    assert "name the model that the checkpoint came from: --base" in capsys.readouterr().err


@pytest.mark.slow
# transformers 5.17 renamed what peft asks its models.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_an_adapter_that_is_named_is_merged_and_classified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("peft", reason="needs the extra peft: pip install mi-toolkit[peft]")
    monkeypatch.chdir(tmp_path)
    path = str(ROOT / "examples" / "lora_heads.py")
    runpy.run_path(path)["train_adapter"](tmp_path / "mine", steps=3)
    example("lora_heads", ["mine", "--behaviours", "previous_token"], monkeypatch)
    out = capsys.readouterr().out
    moved = re.fullmatch(r"previous_token +1 -> \d heads; furthest L\dH\d, by ([+-]0\.\d+)\n", out)
    assert moved
    assert float(moved[1]) != 0
    assert (tmp_path / "lora_heads.csv").stat().st_size > 0


@pytest.mark.slow
def test_a_sweep_that_no_task_has_run_is_not_gathered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="No task has written a table in kept"):
        example("slurm_sweep", ["gather", "--output", "kept"], monkeypatch)


@pytest.mark.slow
def test_an_example_runs_in_a_process_of_its_own_without_arguments(tmp_path: Path) -> None:
    path = ROOT / "examples" / "classify_checkpoint.py"
    shown = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, cwd=tmp_path
    )
    assert shown.returncode == 0, shown.stderr
    assert "of 16 heads of toy-gpt2 carry other labels" in shown.stdout
