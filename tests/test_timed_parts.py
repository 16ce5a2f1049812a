"""How `make test` runs its parts, on a Makefile of four."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

MAKEFILE = """
one three four:
\t@echo made $@
two:
\t@echo made $@; exit 3
"""


@pytest.fixture
def run(repository: Path, tmp_path: Path):
    (tmp_path / "Makefile").write_text(MAKEFILE)
    program = [sys.executable, str(repository / "tools/timed_parts.py")]

    def run(*groups: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*program, *groups], cwd=tmp_path, capture_output=True, text=True)

    return run


def rows(printed: str) -> dict[str, str]:
    """Each part of the closing table, with its outcome."""
    lines = printed.partition("part ")[2].splitlines()[1:]
    return {line.split()[0]: " ".join(line.split()[2:]) for line in lines}


def test_every_part_is_made_and_the_run_closes_with_a_table(run) -> None:
    done = run("one", "three+four")
    assert done.returncode == 0
    made = [line for line in done.stdout.splitlines() if line.startswith("made")]
    assert made[0] == "made one"
    assert sorted(made[1:]) == ["made four", "made three"]
    assert rows(done.stdout) == {"one": "", "three": "", "four": "", "all": ""}


def test_a_part_that_fails_is_named_and_no_later_group_begins(run) -> None:
    done = run("one+two", "three", "four")
    assert done.returncode == 1
    assert rows(done.stdout) == {
        "one": "",
        "two": "FAILED",
        "three": "not run",
        "four": "not run",
        "all": "",
    }
    assert "made three" not in done.stdout


def test_make_s_own_flags_do_not_reach_the_parts(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "MAKEFLAGS", "n")  # which would only print what would be made
    assert "made one" in run("one").stdout.splitlines()
