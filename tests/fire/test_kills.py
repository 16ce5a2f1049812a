"""SIGKILL at random moments: what goes on ends as if nobody had killed it, bit for bit.

`FIRE_SEED=123 make fire` kills at other moments; the seed is printed where a test fails.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fire import killed_jobs

ROOT = Path(__file__).parents[2]
SEED = int(os.environ.get("FIRE_SEED", "23"))
KILLS = 20
MOST = 15
"""Kills that have to come before a job's end, at least."""


def outcomes(folder: Path, n: int, *jobs: str) -> list[dict[str, object]]:
    """What came of each kill; `killed_jobs` says what is in it."""
    done = subprocess.run(
        [sys.executable, killed_jobs.__file__, str(folder), str(SEED), str(n), *jobs],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(found: list[dict[str, object]]) -> None:
    sys.stdout.write("\n".join(map(str, [f"FIRE_SEED={SEED}", *found])))
    assert [each for each in found if each["resumed"] or each["different"]] == []


@pytest.mark.fire
@pytest.mark.parametrize("job", killed_jobs.JOBS)
def test_a_job_that_is_killed_goes_on_to_the_same_bits(job: str, tmp_path: Path) -> None:
    found = outcomes(tmp_path, KILLS, job)
    check(found)
    assert len(found) == KILLS
    assert sum(bool(each["killed"]) for each in found) >= MOST
    assert len({each["left"] for each in found}) > 1, "they come at different stages"
