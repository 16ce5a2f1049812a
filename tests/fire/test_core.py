"""The part of `make fire` that every `make test` runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mutants import read_reasons

ROOT = Path(__file__).parents[2]


LONG = (
    *("head_card", "head_families", "dynamics", "length_sweep", "verify_model"),
    *("untrained_control", "s_inhibition", "perturbation_test", "score_fidelity", "ranking"),
    *("confirm_heads", "find_super_weights", "compare_models", "integrated"),
)
"""Jobs left to `make fire`: they are made of others, which run here."""


CHOSEN = {
    "test_pretended_device.py": f"(accelerator or toy-gpt2) and not ({' or '.join(LONG)})",
    "test_damaged_files.py": "checkpoint or generate or texts or study",
    "test_fuzz.py": "toy-gpt2 and (record or generate or classify) or patterns",
}


@pytest.mark.slow
def test_jobs_run_on_an_accelerator_and_damaged_files_and_odd_calls_are_refused() -> None:
    """In a process of their own, one for all three: torch learns there of another device."""
    # The same few cases each time: `make fire` looks for others.
    some = {"FIRE_SEED": "0", "FIRE_SHARE": "0.2", "PYTEST_ADDOPTS": ""}  # asked of the outer one
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "fire"]
    chosen = " or ".join(f"{file} and ({tests})" for file, tests in CHOSEN.items())
    done = subprocess.run(
        [sys.executable, *command, "-k", chosen, "-v", *(f"tests/fire/{file}" for file in CHOSEN)],
        cwd=ROOT,
        env={**os.environ, **some},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    for file in CHOSEN:
        assert f"{file}::" in done.stdout, f"nothing of {file} ran"


def test_every_survivor_that_is_excused_is_still_in_the_code() -> None:
    reasons = read_reasons()
    assert len(reasons) > 5
    for found, reason in reasons.items():
        source = " ".join((ROOT / found.file).read_text(encoding="utf-8").split())
        assert " ".join(found.was.split()) in source, found
        assert len(reason) > 10, found
