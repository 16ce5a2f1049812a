"""SIGKILL at random moments: what goes on ends as if nobody had killed it, bit for bit.

`FIRE_SEED=123 make fire` kills at other moments; the seed is printed where a test fails.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.fire import killed_jobs
from tests.fire.own_process import lines_of

SEED = int(os.environ.get("FIRE_SEED", "23"))
KILLS = 20
MOST = 15
"""Kills that have to come before a job's end, at least."""


def check(found: list[dict[str, object]]) -> None:
    sys.stdout.write("\n".join(map(str, [f"FIRE_SEED={SEED}", *found])))
    assert [each for each in found if each["resumed"] or each["different"]] == []


@pytest.mark.fire
@pytest.mark.parametrize("job", killed_jobs.JOBS)
def test_a_job_that_is_killed_goes_on_to_the_same_bits(job: str, tmp_path: Path) -> None:
    found = lines_of(killed_jobs.__file__, tmp_path, str(tmp_path), str(SEED), str(KILLS), job)
    check(found)
    assert len(found) == KILLS
    assert sum(bool(each["killed"]) for each in found) >= MOST
    assert len({each["left"] for each in found}) > 1, "they come at different stages"
