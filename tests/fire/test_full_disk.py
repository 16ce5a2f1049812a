"""A disk that takes no more: one line that says so, and what was there before is as it was.

The system's limit on the size of a file (RLIMIT_FSIZE) ends a write in its middle, as a full disk
does. Every writer of the library is tried: results, pages, pictures, tables, and folders of runs.
"""

from __future__ import annotations

import ast
import logging
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

import mi_toolkit as mi
from mi_toolkit.cli.app import run
from mi_toolkit.cli.output import write_tables
from mi_toolkit.core.errors import MIToolkitError
from mi_toolkit.core.tables import write_parquet
from mi_toolkit.models.load import load_model
from mi_toolkit.sweeps.jobs import Job
from mi_toolkit.weights.study import Settings, run_study
from tests.every_job import JOBS
from tests.file_limit import no_file_over
from tests.gguf_made import write_tiny_gguf
from tests.models_here import loaded
from tests.weights.toy_text import TOY_TEXT

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src" / "mi_toolkit"
OLD = b"what was there before"
TEXTS = [f"one two three one two {n}" for n in range(12)]
FULL = r"cannot be written: the disk is full"


def drafts(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*")]


def check_file(write: Callable[[Path], object], path: Path) -> None:
    """Check that a writer of one file says that the disk is full, and leaves the old one."""
    write(path)
    whole = path.stat().st_size
    for n_bytes in (0, whole // 2):
        path.write_bytes(OLD)
        with no_file_over(n_bytes), pytest.raises(MIToolkitError, match=FULL) as refused:
            write(path)
        assert str(path) in str(refused.value)
        assert "\n" not in str(refused.value)
        assert path.read_bytes() == OLD
        assert drafts(path.parent) == []


def check_folder(make: Callable[[Path], object], folder: Path, n_bytes: int) -> None:
    """Check that a run in a folder says so, and goes on once there is room."""
    make(folder / "whole")
    with no_file_over(n_bytes), pytest.raises(MIToolkitError, match=FULL) as refused:
        make(folder / "run")
    assert "\n" not in str(refused.value)
    assert drafts(folder) == []
    make(folder / "run")
    for path in (folder / "whole").rglob("*"):
        again = folder / "run" / path.relative_to(folder / "whole")
        assert path.is_dir() or path.read_bytes() == again.read_bytes(), again


RESULTS = ("record", "generate", "trace_pipeline", "score_weights, wanda", "ablation_sweep")
"""Of every result `save` is the same; of these kinds some have large tensors, and some none."""


@pytest.mark.fire
@pytest.mark.parametrize("job", RESULTS)
def test_a_result_that_is_saved(job: str, tmp_path: Path) -> None:
    check_file(JOBS[job](loaded("toy-gpt2"), tmp_path).save, tmp_path / "made" / "result")


@cache
def report() -> mi.HeadReport:
    return mi.classify_heads(loaded("toy-gpt2"), TEXTS[:2])


def written(kind: str, path: Path) -> None:
    made = report()
    match kind:
        case "save":
            made.save(path)
        case "html":
            mi.view(made).save_html(path)
        case "csv":
            write_tables(path.parent, {path.name: made.to_pandas()})
        case "parquet":
            write_parquet(made.to_pandas(), path)
        case _:
            mi.view(made).save_png(path)


FORMATS = ("save", "html", "png", "svg", "pdf", "csv", "parquet")


@pytest.mark.fire
@pytest.mark.parametrize("kind", FORMATS)
def test_a_report_in_every_format(kind: str, tmp_path: Path) -> None:
    check_file(lambda path: written(kind, path), tmp_path / "made" / f"file.{kind}")


@pytest.mark.slow
def test_a_report_in_some_formats(tmp_path: Path) -> None:
    for kind in ("save", "csv"):
        check_file(lambda path, kind=kind: written(kind, path), tmp_path / f"file.{kind}")


RUNS: Mapping[str, tuple[Callable[[Any, Path], object], int]] = {
    "record_to_disk": (
        lambda model, at: mi.record_to_disk(model, TEXTS, "z", at, batch_size=2, shard_size=20),
        20_000,
    ),
    "classify_heads": (
        lambda model, at: mi.classify_heads(model, TEXTS, resume=at / "sums").save(at / "report"),
        2_000,
    ),
    "profile_heads": (
        lambda model, at: mi.cards.profile_heads(model, TEXTS, resume=at / "sums").save(at / "all"),
        2_000,
    ),
    "confirm_heads": (
        lambda model, at: mi.confirm_heads(
            model, {"induction": ["L2H0"]}, n_sequences=4, resume=at / "losses"
        ).save(at / "found"),
        500,
    ),
    "length_sweep": (
        lambda model, at: mi.compare.length_sweep(model, [8, 12], n_sequences=4, folder=at),
        2_000,
    ),
    "run_study": (
        lambda model, at: run_study(
            model,
            Settings(topk=(5,), n_random=1, fidelity=None, max_length=16),
            texts=TOY_TEXT[:4],
            folder=at,
            progress=False,
        ),
        2_000,
    ),
    "sweep": (
        lambda _, at: mi.sweep(
            [Job(model="toy-gpt2", task="classify", arguments={"prompt": TEXTS[:2]})], at
        ),
        2_000,
    ),
}
"""Runs that fill a folder, and the bytes at which a file of theirs is cut off."""


@pytest.mark.fire
@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_fills_a_folder(name: str, tmp_path: Path) -> None:
    make, n_bytes = RUNS[name]
    check_folder(lambda at: make(loaded("toy-gpt2"), at), tmp_path, n_bytes)


@pytest.mark.fire
def test_the_cache_of_gguf_files_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    file = write_tiny_gguf(tmp_path / "tiny.gguf")
    for n_bytes in (0, 100, 5_000, 100_000):  # in the config, the tokenizer, the weights
        caplog.clear()
        with no_file_over(n_bytes), caplog.at_level(logging.WARNING, "mi_toolkit"):
            load_model(file)
        (said,) = [record.getMessage() for record in caplog.records]
        assert "could not be kept" in said
        assert "the disk is full" in said
        assert list((tmp_path / "assets" / "mi_toolkit" / "gguf").iterdir()) == []


@pytest.mark.fire
def test_a_command_ends_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["classify", "one two one two", "--model", "toy-gpt2"]
    for option in ("--output", "--html", "--png", "--csv", "--resume"):
        ending = {"--output": "", "--resume": ""}.get(option, f".{option[2:]}")
        place = tmp_path / option / f"made{ending}"
        with no_file_over(100):
            assert run([*asked, option, str(place)]) == 1
        said = capsys.readouterr().err
        assert "the disk is full" in said
        assert said.count("\n") == 1
        assert drafts(tmp_path) == []


def test_standard_output_on_a_full_disk_is_told() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no device that is always full")
    with full.open("w") as nowhere:
        done = subprocess.run(
            [sys.executable, "-m", "mi_toolkit", "--version"],
            stdout=nowhere,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "mi-toolkit: standard output cannot be written: the disk is full.\n"


WRITES = {"write_text", "write_bytes", "to_csv", "to_parquet", "save_file"}
NOT_TO_DRAFTS = {
    "app/example.py": "the maintainers' own, of a file that is under version control",
    "models/gguf_cache.py": "into a folder that is renamed once it is whole",
}


def test_whatever_is_written_is_written_to_a_draft() -> None:
    """All writers go through `atomic_write`, whose error is the one line."""
    found: set[str] = set()
    for file in SRC.rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call):
                continue
            name = getattr(call.func, "attr", getattr(call.func, "id", ""))
            into = [getattr(call.func, "value", None), *call.args]
            names = {each.id for each in into if isinstance(each, ast.Name)}
            if name in WRITES and "draft" not in names:
                found.add(file.relative_to(SRC).as_posix())
    assert found == set(NOT_TO_DRAFTS)
