"""What only a process of its own shows: start, streams, exit code, files."""

from __future__ import annotations

import ast
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


def printed_by(program: str) -> str:
    """The last line that a process of its own prints on standard error."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    return done.stderr.splitlines()[-1] if done.stderr else f"nothing: {done.stdout}"


def test_the_package_imports_the_standard_library_alone() -> None:
    third = {"cyclopts", "rich", "attr", "packaging", "numpy", "torch", "dataclasses", "inspect"}
    program = (
        "import sys; before = set(sys.modules); import mi_toolkit; "
        f"print(sorted({third} & (set(sys.modules) - before)), file=sys.stderr)"
    )
    assert printed_by(program) == "[]"


def test_no_help_imports_anything_heavy() -> None:
    heavy = {"torch", "transformers", "transformer_lens", "pandas", "matplotlib", "numpy", "tqdm"}
    heavy |= {"jinja2", "huggingface_hub", "pyarrow", "gradio", "circuitsvis", "IPython"}
    program = (
        "import sys; from mi_toolkit.cli.app import run; from mi_toolkit.cli.app import app; "
        "names = [[], ['activations', 'info'], ['sensitivity', 'compare']]; "
        "names += [[name] for name in app if not name.startswith('-')]; "
        "codes = [run([*name, '--help']) for name in names]; "
        f"print(len(codes), set(codes), sorted({heavy} & set(sys.modules)), file=sys.stderr)"
    )
    n_commands, found = printed_by(program).split(" ", 1)
    assert int(n_commands) > 20
    assert found == "{0} []"


CLASSIFYING = """
import gc, sys
from mi_toolkit.cli.app import run
import transformers
counts = {}
for name in ("AutoTokenizer", "AutoModelForCausalLM"):
    def counted(*arguments, name=name, load=getattr(transformers, name).from_pretrained, **options):
        counts[name] = counts.get(name, 0) + 1
        return load(*arguments, **options)
    setattr(getattr(transformers, name), "from_pretrained", counted)
code = run(["classify", "To be or not to be or not to be", "--behaviours", "induction"])
unused = "datasets pandas pyarrow pytest matplotlib circuitsvis wandb gradio IPython".split()
unused += ["mi_toolkit.draw.markup", "mi_toolkit.draw.page"]  # transformers imports jinja2 itself
there = [name for name in unused if name in sys.modules]
first = (code, there, counts, gc.isenabled())
from transformer_lens import patching
from transformer_lens.utilities import hf_utils
is_one = isinstance({}, hf_utils.Dataset)
made = hf_utils.Dataset.from_dict({"text": ["a"]})
import datasets, pandas
real = type(made) is datasets.Dataset and isinstance(made, hf_utils.Dataset) and not is_one
real = real and patching.pd.DataFrame is pandas.DataFrame
print((*first, real), file=sys.stderr)
"""


def test_classify_imports_what_it_uses_and_loads_once() -> None:
    code, there, counts, collects, is_real = ast.literal_eval(printed_by(CLASSIFYING))
    assert code == 0
    assert there == []
    assert counts == {"AutoTokenizer": 1, "AutoModelForCausalLM": 1}
    assert collects, "Python's collector is on again once the model is loaded"
    assert is_real, "what TransformerLens took from pandas and datasets is theirs when it is used"


@pytest.mark.slow
def test_a_transformer_lens_that_takes_more_of_a_module_is_imported_with_all_of_it() -> None:
    program = (
        "import sys; from mi_toolkit.core import tl_compat as door; "
        "door._PUT_OFF = ('datasets',); "  # whose modules it then finds no package for
        "door.import_lightly(); from transformer_lens.utilities import hf_utils; import datasets; "
        "print(hf_utils.Dataset is datasets.Dataset, file=sys.stderr)"
    )
    assert printed_by(program) == "True"


def test_the_table_of_models_imports_nothing_heavy() -> None:
    program = (
        "import sys; from mi_toolkit.cli.app import run; run(['models', '--all']); "
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
    names = ["report.safetensors", "heads.csv", "page.html", "report.png"]
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
    assert "suppresses" not in table  # no labelled head here does


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
