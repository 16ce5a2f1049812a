"""`sweep`: many jobs, in this process or by workers on a cluster, into one folder.

1. Jobs become pieces of work: the parts of each, then what puts them together. Those whose files
   are in the folder, whole and of the same weights, are done.
2. A worker holds one model and takes the next piece that wants it. It writes its files whole, under
   another name first; the driver enters them into the job's record.
3. A job that fails is reported at the end, by its name. A worker that dies gives its piece to the
   next.

The driver and its workers see the same folder: on a cluster, on a disk that they share.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from mi_toolkit.core.errors import MIToolkitError, SweepError, in_one_line
from mi_toolkit.core.io import FULL, disk_is_full, file_digest, refusal, remove_drafts
from mi_toolkit.core.memory import available_bytes, gigabytes, own_garbage
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.progress import track
from mi_toolkit.core.provenance import installed_versions
from mi_toolkit.models.load import dtype_named, load_model
from mi_toolkit.models.memory_use import ModelSize, model_size, peak_bytes
from mi_toolkit.models.sources import find_source, weights_of
from mi_toolkit.sweeps.jobs import TASKS, Job, Parts, Split
from mi_toolkit.sweeps.results import (
    JOBS,
    RECORD,
    JobFolder,
    SweepResults,
    SweepSettings,
    save_result,
    write_record,
)

logger = logging.getLogger("mi_toolkit")


@dataclass(frozen=True, kw_only=True)
class Work:
    """A piece of a job: a part of it, or all that is left once its parts are there."""

    job: Job
    n_parts: int
    part: int | None = None
    """Which part; None for the result."""

    n_bytes: int = 0
    """The memory that it needs."""

    @property
    def model(self) -> tuple[str, str | None, str]:
        """What has to be loaded for it."""
        return (self.job.model, self.job.revision, self.job.dtype)

    @property
    def key(self) -> tuple[str, int | None]:
        """What tells it from other work."""
        return (self.job.name, self.part)

    @property
    def part_name(self) -> str:
        """Of a part: what it is called."""
        return f"part {(self.part or 0) + 1} of {self.n_parts}"

    def part_file(self, part: int) -> str:
        """Where a part is, in the job's folder."""
        return f"parts/{part + 1:05}-of-{self.n_parts:05}.safetensors"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a piece of work."""

    error: str | None = None
    """Why it failed; None where it did not."""

    is_fatal: bool = False
    """Whether every other job would fail alike: the disk is full, say."""

    files: tuple[str, ...] = ()
    """What was written, as paths in the job's folder."""

    weights: str | None = None
    """What tells the model's weights from others, where that can be seen."""

    made_by: Mapping[str, Any] = field(default_factory=dict)
    """Versions and device."""


class Worker:
    """Does one piece of work after the other, with one model in memory."""

    def __init__(self, folder: str, digest: str, settings: SweepSettings) -> None:
        """Work in a folder whose record has that digest."""
        self._folder, self._digest, self._settings = Path(folder), digest, settings
        self._held: tuple[tuple[Any, ...], HookedModel] | None = None
        self._life_of_held = ExitStack()
        self._weights: str | None = None
        self._begun: tuple[str, Parts] | None = None

    def ready(self) -> dict[str, str]:
        """The versions that are installed here."""
        return installed_versions()

    def do(self, work: Work) -> Outcome:
        """Do it, and tell what became of it: whatever a job raises ends that job alone."""
        try:
            self._check_folder()
            with _threads(self._settings.threads):
                return self._done(work)
        except Exception as error:
            is_full = disk_is_full(error)
            if not is_full and not isinstance(error, MIToolkitError):
                logger.warning("%s failed.", work.job.name, exc_info=error)
            return Outcome(
                error=FULL if is_full else in_one_line(error),
                is_fatal=is_full or isinstance(error, _FolderError),
            )

    def _check_folder(self) -> None:
        record = self._folder / RECORD
        if not record.is_file() or file_digest(record) != self._digest:
            raise _FolderError(
                f"A worker does not find the sweep in {self._folder}: give a folder on a disk that "
                "all nodes share, by a path that is the same on each."
            )

    def _done(self, work: Work) -> Outcome:
        model = self._model(work)
        with own_garbage():
            return self._written(model, work)

    def _written(self, model: HookedModel, work: Work) -> Outcome:
        job, task = work.job, TASKS[work.job.task]
        folder = self._folder / JOBS / job.name
        parts = [folder / work.part_file(part) for part in range(work.n_parts)]
        if task.split is not None and work.part is not None:
            per_part = self._settings.texts_per_part
            texts = range(work.part * per_part, (work.part + 1) * per_part)
            self._parts(model, work, task.split).measure(parts[work.part], work.part, texts)
            files = [work.part_file(work.part)]
        elif task.split is not None and work.n_parts > 1:
            merged = self._parts(model, work, task.split).merged(parts)
            files = save_result(merged, job, folder)
        else:
            files = save_result(task.run(model, job, folder), job, folder)
        return Outcome(
            files=tuple(files),
            weights=self._weights,
            made_by={
                "made_with": installed_versions(),
                "device": torch.device(model.cfg.device or "cpu").type,
            },
        )

    def _parts(self, model: HookedModel, work: Work, split: Split) -> Parts:
        """What all parts of a job need, made once for those that this worker does in a row."""
        if self._begun is None or self._begun[0] != work.job.name:
            self._begun = None
            self._begun = (work.job.name, split.begun(model, work.job, work.n_parts))
        return self._begun[1]

    def _model(self, work: Work) -> HookedModel:
        if self._held is None or self._held[0] != work.model:
            # Two never lie in memory together: the first goes before the second comes.
            self.let_go()
            self._life_of_held.enter_context(own_garbage())
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._check_memory(work)
            name, revision, dtype = work.model
            loaded = load_model(name, revision=revision, dtype=dtype, **self._settings.load)
            self._weights = _weights_of_model(name, revision)
            self._held = (work.model, loaded)
        return self._held[1]

    def let_go(self) -> None:
        """Drop the model that is held, and what it alone holds."""
        self._held = self._begun = None
        self._life_of_held.close()

    def _check_memory(self, work: Work) -> None:
        device = self._settings.load.get("device")
        if device is None and torch.cuda.is_available():
            device = "cuda"
        free = available_bytes(device)
        if work.n_bytes > free:
            raise SweepError(
                f"{work.job.task} on {work.job.model} takes about {gigabytes(work.n_bytes)} in "
                f"{work.job.dtype}, and {gigabytes(free)} are free here: take bfloat16, load="
                "{'layers_at_a_time': 1}, which reads its blocks from disk, or a machine with more "
                "memory."
            )


class _FolderError(SweepError):
    """A worker that does not see the sweep's folder."""


@contextmanager
def _threads(n: int) -> Iterator[None]:
    """Inside, torch computes with `n` threads: how many there are decides the last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _weights_of_model(model: str, revision: str | None) -> str | None:
    """What tells weights from others; None for weights that are not on this machine."""
    return weights_of(find_source(model, revision=revision), revision)


@cache
def _size(model: str) -> ModelSize | None:
    try:
        return model_size(model)
    except MIToolkitError:
        return None  # whoever loads it says why


def bytes_needed(job: Job, *, layers: int | None = None) -> int:
    """The memory that a job takes, by the model's config: that of `mi.plan`; 0 where unknown."""
    size = _size(job.model)
    itemsize = dtype_named(job.dtype).itemsize
    return 0 if size is None else peak_bytes(size, job.task, itemsize=itemsize, layers=layers)


class Queue:
    """The work that is to be done: the largest models first, each job's result after its parts."""

    def __init__(
        self, folders: Mapping[str, JobFolder], *, retries: int, layers: int | None = None
    ) -> None:
        self.folders, self.retries, self.layers = folders, retries, layers
        self.waiting: list[Work] = []
        self._left: dict[str, int] = {}
        self._deaths: dict[Any, int] = {}
        self._failed: set[str] = set()

    def add(self, job: Job, *, n_parts: int, weights: str | None) -> None:
        """Add a job that is not done: the parts of it that are missing."""
        result = Work(job=job, n_parts=n_parts, n_bytes=bytes_needed(job, layers=self.layers))
        parts = [replace(result, part=part) for part in range(n_parts if n_parts > 1 else 0)]
        folder = self.folders[job.name]
        parts = [part for part in parts if not folder.has_part(part.part_name, weights)]
        self._left[job.name] = len(parts)
        self.waiting += parts or [result]
        self.waiting.sort(key=lambda work: -work.n_bytes)

    def take(
        self,
        model: tuple[Any, ...] | None,
        *,
        busy: Sequence[tuple[Any, ...]] = (),
        fits: Callable[[Work], bool] = lambda work: True,
    ) -> Work | None:
        """The next piece for a worker: of the model that it holds, else of one that nobody has."""
        fitting = [work for work in self.waiting if fits(work)]
        if not fitting:
            return None
        chosen = min(
            fitting, key=lambda work: 0 if work.model == model else 1 + (work.model in busy)
        )
        self.waiting.remove(chosen)
        return chosen

    def died(self, work: Work, reason: str) -> Outcome | None:
        """A worker died at it: it waits again, or has failed after so many deaths."""
        self._deaths[work.key] = deaths = self._deaths.get(work.key, 0) + 1
        if deaths <= self.retries:
            logger.warning("A worker died at %s, which is done again: %s", work.job.name, reason)
            self.waiting.insert(0, work)
            return None
        return Outcome(error=f"{deaths} workers died at it: {reason}")

    def finished(self, work: Work, outcome: Outcome) -> bool:
        """Enter what a worker gives; whether the job is over, done or failed."""
        name, folder = work.job.name, self.folders[work.job.name]
        if name in self._failed:
            return False
        if outcome.error is not None:
            self._failed.add(name)
            self.waiting = [each for each in self.waiting if each.job.name != name]
            return True
        if work.part is None:
            folder.enter_result(outcome.files, outcome.weights, outcome.made_by)
            return True
        folder.enter_part(work.part_name, outcome.files, outcome.weights, outcome.made_by)
        self._left[name] -= 1
        if not self._left[name]:
            self.waiting.insert(0, replace(work, part=None))
        return False


def _in_this_process(queue: Queue, worker: Worker) -> Generator[tuple[Work, Outcome]]:
    model = None
    try:
        while (work := queue.take(model)) is not None:
            model = work.model
            yield work, worker.do(work)
    finally:
        worker.let_go()


def sweep(
    jobs: Job | Mapping[str, Any] | Sequence[Job | Mapping[str, Any]],
    output: str | os.PathLike[str],
    *,
    workers: int | str | None = None,
    address: str | None = None,
    threads: int = 1,
    texts_per_part: int = 512,
    retries: int = 3,
    mixed_versions: bool = False,
    load: Mapping[str, Any] | None = None,
    gpus_per_worker: float | None = None,
    ray_options: Mapping[str, Any] | None = None,
    progress: bool | None = None,
) -> SweepResults:
    """Do many jobs on many models, into one folder that is read as one table.

    Interrupted or killed, the same call goes on where it was: a job is done whose files are whole.
    Any number of workers gives the same files, bit for bit, on processors of one kind: how a job is
    split and in which order its parts are put together does not depend on them. On a GPU that holds
    as far as its own arithmetic repeats itself.

    A job that fails does not end the others: the result's `failed` says which and why, and the
    next call tries them again.

    Args:
        jobs: what to do, each a `Job` or its record; `jobs_over` makes those of many models.
        output: the folder. Workers on other nodes have to see it too, by the same path.
        workers: None: this process does all. Else Ray (`pip install 'mi-toolkit[ray]'`): so many
            workers, or "auto", as many as there are cores (`threads` to each) or GPUs.
        address: of a Ray cluster, such as "auto" or "head:6379"; None: of this machine,
            which ends with the call, listens on loopback alone, and has no dashboard.
        threads: of torch, to a worker, in this process too: they decide the last bits. One is
            quickest for many small models; give a machine's cores to few large ones.
        texts_per_part: a job that reads more texts is split into parts. It changes the last bits.
        retries: how often a piece of work is done again whose worker died.
        mixed_versions: take workers, or what is in the folder, with other versions of the packages
            that decide figures. Without it they are refused. Provenance has each job's.
        load: further arguments of `load_model`, such as `{"device": "cpu"}`.
        gpus_per_worker: None: one where the cluster has any, so that no two models share one. Less
            than one lets them.
        ray_options: further options of Ray's actors, such as `{"runtime_env": …}`.
        progress: a bar; None: where somebody looks, and else lines of the log (level INFO).

    Raises:
        SweepError: no job, two that are the same; a folder of other versions, weights or settings;
            a full disk, after which the same call goes on; Ray is missing or cannot be reached.
        UnknownNameError, ModelLoadError: a model is called so nowhere.

    Example:
        >>> import mi_toolkit as mi
        >>> jobs = mi.sweeps.jobs_over(["toy-gpt2", "toy-opt"], "classify")
        >>> found = mi.sweep(jobs, "results")  # doctest: +SKIP
        >>> found.to_pandas().groupby(["model", "label"]).size()  # doctest: +SKIP
    """
    several = [jobs] if isinstance(jobs, Job | Mapping | str | os.PathLike) else jobs
    asked = [job if isinstance(job, Job) else Job.of(job) for job in several]
    _check_jobs(asked)
    if threads < 1 or texts_per_part < 1 or retries < 0:
        raise SweepError("threads and texts_per_part are 1 or more, retries 0 or more.")
    settings = SweepSettings(threads=threads, texts_per_part=texts_per_part, load=dict(load or {}))
    folder = Path(output).absolute()
    queue, n_done = _prepared(asked, folder, settings, retries, mixed_versions=mixed_versions)
    digest = file_digest(folder / RECORD)
    failed: dict[str, str] = {}
    if workers is None:
        done = _in_this_process(queue, Worker(str(folder), digest, settings))
    else:
        # Ray is an extra, and heavy.
        from mi_toolkit.sweeps.cluster import on_cluster

        done = on_cluster(
            queue,
            (str(folder), digest, settings),
            workers=workers,
            address=address,
            gpus_per_worker=gpus_per_worker,
            mixed_versions=mixed_versions,
            options=dict(ray_options or {}),
        )
    with _written_to(folder, asked), closing(done):
        failed = _collected(queue, done, len(asked) - n_done, progress)
        write_record(folder, asked, failed)
    if failed:
        reasons = failures_in_words(failed)
        logger.warning("%d of %d jobs failed: %s", len(failed), len(asked), reasons)
    return SweepResults(folder, tuple(asked), failed)


def failures_in_words(failed: Mapping[str, str]) -> str:
    """Which jobs failed and why: each by its name, each reason once.

    >>> failures_in_words({"a": "no room", "b": "no room", "c": "no such file"})
    'a, b: no room; c: no such file'
    """
    by_reason: dict[str, list[str]] = {}
    for name, why in failed.items():
        by_reason.setdefault(why, []).append(name)
    return "; ".join(f"{', '.join(names)}: {why}" for why, names in by_reason.items())


@contextmanager
def _written_to(folder: Path, jobs: Sequence[Job]) -> Iterator[None]:
    """A disk that takes no more is reported in one line, with how far the sweep is."""
    try:
        yield
    except OSError as error:
        n_done = len(SweepResults(folder, tuple(jobs), {}).done)
        raise SweepError(
            f"{folder} cannot be written: {refusal(error)}. {n_done} of {len(jobs)} jobs are done; "
            "the same call goes on from there."
        ) from error


def _check_jobs(jobs: Sequence[Job]) -> None:
    if not jobs:
        raise SweepError("A sweep takes one job or more.")
    names = [job.name for job in jobs]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise SweepError(f"The job {twice[0]} is there {names.count(twice[0])} times: once is all.")
    for model, revision in dict.fromkeys((job.model, job.revision) for job in jobs):
        find_source(model, revision=revision)


def _prepared(
    jobs: Sequence[Job],
    folder: Path,
    settings: SweepSettings,
    retries: int,
    *,
    mixed_versions: bool,
) -> tuple[Queue, int]:
    """What is still to be done, and how many jobs are done already."""
    n_done, weights = 0, cache(_weights_of_model)
    with _written_to(folder, jobs):
        folder.mkdir(parents=True, exist_ok=True)
        remove_drafts(folder)
        folders = {
            job.name: JobFolder(folder, job, settings, mixed_versions=mixed_versions)
            for job in jobs
        }
        layers = settings.load.get("layers_at_a_time")
        queue = Queue(folders, retries=retries, layers=layers)
        for job in jobs:
            own = weights(job.model, job.revision)
            if folders[job.name].is_done(own):
                n_done += 1
            else:
                n_parts = TASKS[job.task].n_parts(job, settings.texts_per_part)
                queue.add(job, n_parts=n_parts, weights=own)
        write_record(folder, jobs, {})
    return queue, n_done


def _collected(
    queue: Queue, done: Iterator[tuple[Work, Outcome]], total: int, progress: bool | None
) -> dict[str, str]:
    """Enter what comes in until nothing is left; why jobs failed, by their names."""
    failed: dict[str, str] = {}

    def over() -> Iterator[Job]:
        for work, outcome in done:
            if outcome.error == FULL:
                raise OSError(errno.ENOSPC, FULL)
            if outcome.is_fatal:
                raise SweepError(str(outcome.error))
            if queue.finished(work, outcome):
                if outcome.error is not None:
                    failed[work.job.name] = outcome.error
                yield work.job

    for _ in track(over(), total=total, label="sweeping", unit="job", show=progress):
        pass
    return failed
