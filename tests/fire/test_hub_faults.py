"""A hub that fails in every way it can: one clear line each, and nothing half-written is used.

The hub's own client talks to a server on loopback, in a process as a user has.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.file_limit import limit_files
from tests.fire.hub_server import COMMIT, FAULTS, WEIGHTS, Served, serving
from tests.hub_cache import hub_config, lay_out, shrunk
from tests.tiny_models import tiny_tokenizer

pytestmark = pytest.mark.fire

ROOT = Path(__file__).parents[2]
CLIENT = Path(__file__).with_name("hub_client.py")
SOUND = "sound/model"
TIMEOUT = "2"

TELLS: Mapping[str, str] = {
    "unauthorised": r"answered 401 for .*: it wants a token, .* set HF_TOKEN",
    "gated": r"is gated: accept its licence on https://huggingface.co/faulty/gated",
    "gated-without-token": r"is gated: .* set it as HF_TOKEN",
    "forbidden": r"answered 403 for .*: you, or your token, may not read it",
    "no-such-model": r"The hub has no model 'faulty/no-such-model' that you may see",
    "no-such-revision": r"no such revision on the hub",
    "no-config": r"has no config\.json that says of which kind it is",
    "no-weights": r"has no weights that can be read here",
    "unsatisfiable-range": r"broke off|416",
    "too-many-requests": r"answered 429 for .*: too many requests; wait 1 s and try again",
    "internal-error": r"answered 500 for .*: the fault is its own; try again in a few minutes",
    "unavailable": r"answered 503 for .*: the fault is its own",
    "hangs-up": r"could not be reached|broke off",
    "reset": r"broke off: .* try again",
    "stalled": r"broke off: .* try again",
    "truncated": r"broke off: Consistency check failed.* try again",
    "wrong-hash": rf"{WEIGHTS} of faulty/wrong-hash was damaged on its way .* deleted: try again",
    "redirect-loop": r"broke off: .*redirects|could not be reached",
}
"""What the line must say; `slow` says nothing: it loads."""

NEVER_MENDED = ("no-config", "no-weights")
"""A revision never changes: the cache keeps that it has no such file."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    layout = tmp_path_factory.mktemp("layout")
    snapshot = lay_out(layout, "gpt2", shrunk(hub_config("gpt2")), tiny_tokenizer())
    with serving(snapshot) as served:
        yield served


def started(
    hub: Served,
    home: Path,
    *names: str,
    endpoint: str | None = None,
    file_limit: int | None = None,
) -> subprocess.Popen[str]:
    """A process that loads those models, with its own cache."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    mine |= {
        "HF_ENDPOINT": endpoint or hub.endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DOWNLOAD_TIMEOUT": TIMEOUT,
        "HF_HUB_ETAG_TIMEOUT": TIMEOUT,
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HEALER": hub.endpoint,
        "PYTHONPATH": str(ROOT),
    }
    if file_limit is not None:
        mine["PYTHONDONTWRITEBYTECODE"] = "1"  # as `file_limit` says
    return subprocess.Popen(
        [sys.executable, str(CLIENT), *names],
        env=mine,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=None if file_limit is None else partial(limit_files, file_limit),
    )


def results_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, errors = process.communicate(timeout=1200)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    return {found["name"]: found for found in map(json.loads, output.splitlines())}


@pytest.fixture(scope="module")
def results(hub: Served, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of every fault, and of the try after it."""
    names = [SOUND, *(f"faulty/{name}" for name in FAULTS)]
    return results_of(started(hub, tmp_path_factory.mktemp("home"), *names))


@pytest.fixture(scope="module")
def figure(results: dict[str, Any]) -> float:
    """What the model computes that the hub has."""
    return float(results[SOUND]["first"]["figure"])


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_in_one_line_and_the_next_try_works(
    fault: str, results: dict[str, Any], figure: float
) -> None:
    found = results[f"faulty/{fault}"]
    if fault in TELLS:
        message = found["first"]["message"]
        assert found["first"]["error"] == "ModelLoadError"
        assert "\n" not in message
        assert re.search(TELLS[fault], message), message
    else:
        assert found["first"] == {"figure": figure}
    if fault not in NEVER_MENDED:
        assert found["second"] == {"figure": figure}


def test_a_hub_that_is_not_there_is_told(hub: Served, tmp_path: Path) -> None:
    nobody = "http://127.0.0.1:9"  # discard: nothing listens
    found = results_of(started(hub, tmp_path, SOUND, endpoint=nobody))[SOUND]
    assert "the hub could not be reached" in found["first"]["message"]


def test_two_processes_that_download_the_same_model_both_have_it(
    hub: Served, tmp_path: Path, figure: float
) -> None:
    both = [started(hub, tmp_path, "faulty/slow-for-two") for _ in range(2)]
    for process in both:
        found = results_of(process)["faulty/slow-for-two"]
        assert found["first"] == found["second"] == {"figure": figure}


def test_a_full_disk_is_told_and_leaves_nothing_that_is_used(
    hub: Served, tmp_path: Path, figure: float
) -> None:
    found = results_of(started(hub, tmp_path, SOUND, file_limit=100_000))[SOUND]
    assert re.search(r"File too large|No space left", found["first"]["message"])
    assert results_of(started(hub, tmp_path, SOUND))[SOUND]["first"] == {"figure": figure}


def test_a_cache_that_cannot_be_written_is_told(hub: Served, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    found = results_of(started(hub, tmp_path / "file" / "home", SOUND))[SOUND]
    assert found["first"]["error"] == "ModelLoadError"
    assert "Not a directory" in found["first"]["message"]


@pytest.mark.parametrize("left", ["config alone", "half of the weights", "empty weights"])
def test_a_half_written_snapshot_is_completed_or_refused(
    left: str, hub: Served, tmp_path: Path, figure: float
) -> None:
    assert results_of(started(hub, tmp_path, SOUND))[SOUND]["first"] == {"figure": figure}
    snapshot = tmp_path / "hub" / f"models--{SOUND.replace('/', '--')}" / "snapshots" / COMMIT
    weights = (snapshot / WEIGHTS).resolve()
    content = weights.read_bytes()
    if left == "config alone":
        (snapshot / WEIGHTS).unlink()
        weights.unlink()
    else:
        weights.write_bytes(content[: len(content) // 2 if left.startswith("half") else 0])
    found = results_of(started(hub, tmp_path, SOUND))[SOUND]["first"]
    if left == "config alone":
        assert found == {"figure": figure}
    else:
        assert re.search(rf"{WEIGHTS} .* is damaged .* Delete it", found["message"])
