"""Sweeps in this process and by workers of Ray: the same files, whatever happens on the way."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

import mi_toolkit as mi
from mi_toolkit.activations.store.reader import ActivationStore
from mi_toolkit.core import progress
from mi_toolkit.core.errors import ReportError, SweepError, UnknownNameError
from mi_toolkit.core.provenance import installed_versions
from mi_toolkit.models.sources import bundled_folder
from mi_toolkit.sweeps.jobs import TASKS, Job
from mi_toolkit.sweeps.results import SweepSettings
from mi_toolkit.sweeps.run import Work, Worker
from tests.every_job import differences, figures_of
from tests.models_here import loaded
from tests.sweeps.made import FAILING, JOBS, PER_PART, TEXTS, files_of

CLASSIFY, STATISTICS, RECORD = JOBS[:3]


def huge(folder: Path) -> Job:
    """A model whose config says that it takes 7 TB."""
    folder.mkdir()
    config = json.loads((bundled_folder("toy-gpt2") / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "n_embd": 400_000, "n_layer": 1}))
    return Job(model=str(folder), task="verify")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> mi.sweeps.SweepResults:
    """All jobs, done in this process."""
    folder = tmp_path_factory.mktemp("swept") / "alone"
    return mi.sweep(JOBS, folder, texts_per_part=PER_PART)


@pytest.mark.slow
def test_every_job_is_done_and_its_result_is_the_library_s_own(
    swept: mi.sweeps.SweepResults,
) -> None:
    assert swept.done == tuple(JOBS)
    assert not swept.failed
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    own = [
        mi.classify_heads(loaded("toy-gpt2"), TEXTS, batch_size=2),
        mi.activation_statistics(loaded("toy-gpt2"), ["", *TEXTS], "mlp_post", batch_size=2),
    ]
    torch.set_num_threads(before)
    assert differences(figures_of(own[0]), figures_of(swept.result(CLASSIFY))) == []
    parts = swept.result(STATISTICS)
    assert parts.n_documents == 10
    assert torch.equal(own[1][("mlp_post", 0)].top.values, parts[("mlp_post", 0)].top.values)
    torch.testing.assert_close(
        own[1][("mlp_post", 0)].moments.deviations, parts[("mlp_post", 0)].moments.deviations
    )
    store = swept.result(RECORD)
    assert isinstance(store, ActivationStore)
    assert store.read(("resid_post", 1), slice(None)).dtype == torch.float16


def test_the_folder_opens_as_a_table_of_each_task(swept: mi.sweeps.SweepResults) -> None:
    found = mi.open_sweep(swept.folder)
    assert found.jobs == swept.jobs
    table = found.to_pandas("classify")
    assert set(table["model"]) == {"toy-gpt2", "toy-qwen2"}
    assert len(table) == sum(len(found.result(job).to_pandas()) for job in JOBS[::3][:2])
    for task in TASKS:
        if task != "record":
            assert [*found.to_pandas(task).columns[:4]] == ["job", "model", "revision", "dtype"]
    with pytest.raises(SweepError, match="has tables of 7 tasks: classify, statistics"):
        found.to_pandas()
    with pytest.raises(UnknownNameError, match="task of this sweep"):
        found.to_pandas("clasify")
    with pytest.raises(SweepError, match="No record of this sweep has a table"):
        found.to_pandas("record")
    with pytest.raises(UnknownNameError, match="No job of this sweep"):
        found.result("other")
    assert "8 of 8 jobs done" in repr(found)


def test_provenance_says_what_made_a_result(swept: mi.sweeps.SweepResults) -> None:
    found = swept.provenance(CLASSIFY)
    assert found["made_with"] == found["versions"] == installed_versions()
    assert found["device"] == "cpu"
    assert found["settings"]["threads"] == 1
    assert len(found["weights"]) == 64
    told = json.dumps(found)
    assert str(Path.home()) not in told


def test_nothing_is_done_twice(swept: mi.sweeps.SweepResults) -> None:
    before = files_of(swept.folder)
    times = {path: path.stat().st_mtime_ns for path in swept.folder.rglob("result*")}
    mi.sweep(JOBS, swept.folder, texts_per_part=PER_PART)
    assert files_of(swept.folder) == before
    assert {path: path.stat().st_mtime_ns for path in swept.folder.rglob("result*")} == times


def test_a_damaged_result_is_made_again(swept: mi.sweeps.SweepResults, tmp_path: Path) -> None:
    shutil.copytree(swept.folder, tmp_path / "copy")
    path = tmp_path / "copy" / "jobs" / CLASSIFY.name / "result.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    mi.sweep(JOBS, tmp_path / "copy", texts_per_part=PER_PART)
    assert files_of(tmp_path / "copy") == files_of(swept.folder)


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_no_pickle_in_the_folder_is_ever_read(
    swept: mi.sweeps.SweepResults, tmp_path: Path
) -> None:
    names = {Path(name).suffix for name in files_of(swept.folder)}
    assert names == {".json", ".safetensors", ".parquet"}
    shutil.copytree(swept.folder, tmp_path / "copy")
    sprung = tmp_path / "sprung"
    for path in (tmp_path / "copy" / "jobs").rglob("*.*"):
        if path.is_file() and path.name != "job.json":
            path.write_bytes(pickle.dumps(Hostile(sprung)))
    found = mi.open_sweep(tmp_path / "copy")
    for job in JOBS:
        with pytest.raises((ReportError, mi.core.errors.ActivationsError)):
            found.result(job)
    with pytest.raises(ReportError, match="cannot be read as one"):
        found.to_pandas("classify")
    (tmp_path / "copy" / "sweep.json").write_bytes(pickle.dumps(Hostile(sprung)))
    with pytest.raises(SweepError, match="is damaged"):
        mi.open_sweep(tmp_path / "copy")
    assert not sprung.exists()


def test_jobs_that_fail_are_told_by_name_and_the_others_are_done(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 0.01)
    large, good = huge(tmp_path / "huge"), JOBS[5]
    with caplog.at_level(logging.INFO):
        found = mi.sweep([FAILING, large, good], tmp_path / "sweep")
    assert found.done == (good,)
    assert "is empty" in found.failed[FAILING.name]
    assert "are free here: take bfloat16" in found.failed[large.name]
    assert "sweeping: 3 of 3 (job), " in caplog.text
    assert " a minute, about 0 s to go" in caplog.text
    assert f"2 of 3 jobs failed: {large.name}: " in caplog.text
    again = mi.open_sweep(tmp_path / "sweep")
    assert again.failed == found.failed
    with pytest.raises(SweepError, match=f"{FAILING.name} failed: The prompt is empty"):
        again.result(FAILING)
    # The next call tries them again, and a sweep may leave jobs out or take others.
    assert set(mi.sweep([FAILING, good], tmp_path / "sweep").failed) == {FAILING.name}
    assert not mi.sweep([good], tmp_path / "sweep").failed


def test_other_versions_weights_settings_or_texts_are_refused(tmp_path: Path) -> None:
    model, texts = tmp_path / "model", tmp_path / "texts.txt"
    shutil.copytree(bundled_folder("toy-gpt2"), model)
    texts.write_text("one two three\nfour five\n")
    job = Job(
        model=str(model), task="statistics", arguments={"texts": str(texts), "names": "mlp_post"}
    )
    mi.sweep([job], tmp_path / "sweep", texts_per_part=1)
    record = tmp_path / "sweep" / "jobs" / job.name / "job.json"
    assert mi.open_sweep(tmp_path / "sweep").result(job).n_documents == 2

    def refused(told: str, **asked: Any) -> None:
        with pytest.raises(SweepError, match=f"holds another job of a sweep: {told}"):
            mi.sweep([job], tmp_path / "sweep", **{"texts_per_part": 1, **asked})

    refused(r"settings\.threads was 1 and is 2", threads=2)
    refused(r"settings\.texts_per_part was 1 and is 2", texts_per_part=2)
    kept = record.read_text()
    record.write_text(kept.replace(installed_versions()["torch"], "1.0"))
    refused(r"versions\.torch was '1\.0' and is")
    with_both = mi.sweep([job], tmp_path / "sweep", texts_per_part=1, mixed_versions=True)
    assert with_both.provenance(job)["versions"]["torch"] == "1.0"
    record.write_text(kept)
    texts.write_text("one two three\nfour six\n")
    refused("texts")
    texts.write_text("one two three\nfour five\n")
    weights = load_file(model / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] += 1
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    refused("weights was")


def test_a_folder_that_holds_no_sweep_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"there is no sweep\.json in it"):
        mi.open_sweep(tmp_path)
    (tmp_path / "sweep.json").write_text('{"format": "mi_toolkit sweep 0"}')
    with pytest.raises(SweepError, match="is of another version"):
        mi.open_sweep(tmp_path)


def test_a_worker_that_sees_another_folder_says_so(tmp_path: Path) -> None:
    settings = SweepSettings(threads=1, texts_per_part=1, load={})
    outcome = Worker(str(tmp_path), "0" * 64, settings).do(Work(job=JOBS[5], n_parts=1))
    assert outcome.is_fatal
    assert "on a disk that all nodes share" in str(outcome.error)


@pytest.mark.slow
def test_a_driver_that_is_killed_goes_on_and_a_full_disk_is_one_line(tmp_path: Path) -> None:
    """Killed again and again in one folder; in another the disk takes no more."""
    plain, killed, full = (str(tmp_path / name) for name in ("plain", "killed", "full"))
    asked = [
        *(plain, "none", "0"),
        *(killed, "file", "3", killed, "file", "7", killed, "file", "5", killed, "none", "0"),
        *(full, "bytes", "2000", full, "none", "0"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "tests.sweeps.killed", *asked],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["0", "-9", "-9", "-9", "0", "1", "0"]
    assert files_of(Path(killed)) == files_of(Path(plain))
    assert files_of(Path(full)) == files_of(Path(plain))
    assert not list(Path(killed).rglob("*draft*"))
    assert Path(f"{full}.err").read_text() == (
        f"{full} cannot be written: the disk is full. 0 of 3 jobs are done; the same call goes on "
        "from there.\n"
    )


def test_workers_without_ray_are_told_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "mi_toolkit.sweeps.cluster", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SweepError, match=r"pip install 'mi-toolkit\[ray\]'"):
        mi.sweep(JOBS[5:6], tmp_path / "sweep", workers=2)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A cluster of this machine, as a sweep with workers starts it, for all tests that follow."""
    from mi_toolkit.sweeps.cluster import connected

    with connected(None, cpus=4):
        yield


@pytest.mark.fire  # two alone; the three of the next test run on every `make test`
@pytest.mark.usefixtures("cluster")
def test_two_workers_write_the_files_of_one_process(
    swept: mi.sweeps.SweepResults, tmp_path: Path
) -> None:
    found = mi.sweep(JOBS, tmp_path / "two", workers=2, texts_per_part=PER_PART)
    assert found.done == tuple(JOBS)
    assert files_of(tmp_path / "two") == files_of(swept.folder)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_three_workers_of_which_one_is_killed_at_work_write_the_same_files(
    swept: mi.sweeps.SweepResults, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    killed: list[int] = []
    ends = threading.Event()

    def kill_one() -> None:
        while not (killed or ends.is_set()):
            for process in psutil.process_iter(["cmdline"]):
                if "ray::SweepWorker.do" in " ".join(process.info["cmdline"] or []):
                    process.kill()
                    killed.append(process.pid)
                    return
            time.sleep(0.05)  # a look at every process takes a while: others need the processor

    large = huge(tmp_path / "huge")
    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        found = mi.sweep([large, *JOBS], tmp_path / "three", workers=3, texts_per_part=PER_PART)
    finally:
        ends.set()
        killer.join()
    assert killed
    assert "A worker died at" in caplog.text
    assert found.done == tuple(JOBS)
    assert "and no node has more than" in found.failed[large.name]
    assert files_of(tmp_path / "three" / "jobs") == files_of(swept.folder / "jobs")


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_workers_with_other_versions_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "packages" / "transformers-0.0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 0.0.1\n")
    environment = {"env_vars": {"PYTHONPATH": str(other.parent)}}
    asked: Mapping[str, Any] = {"workers": 1, "ray_options": {"runtime_env": environment}}
    with pytest.raises(SweepError, match=r"other versions: transformers 0\.0\.1 there and \d"):
        mi.sweep(JOBS[5:6], tmp_path / "sweep", **asked)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_the_cluster_listens_on_loopback_alone_and_has_no_dashboard() -> None:
    heard = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # one of those that come and go
            opened = process.net_connections("tcp")
            heard += [each for each in opened if each.status == psutil.CONN_LISTEN]
    assert heard
    assert {each.laddr.ip for each in heard} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    assert 8265 not in {each.laddr.port for each in heard}
