"""The part of `make fire` that every `make test` runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_all_jobs_run_on_a_pretended_accelerator() -> None:
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "fire"]
    chosen = ["-k", "toy-gpt2 or accelerator", "tests/fire/test_pretended_device.py"]
    done = subprocess.run(
        [sys.executable, *command, *chosen], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout
