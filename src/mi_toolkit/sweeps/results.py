"""The folder of a sweep: what is in it, and how it is read.

| file | holds |
|---|---|
| `sweep.json` | the jobs, in order, and why those failed that did |
| `jobs/<name>/job.json` | the job, the versions that did it, digests; with a result: it is done |
| `jobs/<name>/result.safetensors` | the result, as it saves itself; a recording: `activations/` |
| `jobs/<name>/table.parquet` | its rows, the model's name, revision and precision in front |

Nothing in it is pickled, nor tells the time or the machine: equal sweeps are equal files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mi_toolkit.core.display import TableRepr, TextTable
from mi_toolkit.core.errors import SweepError, unknown_name
from mi_toolkit.core.io import atomic_write, read_json
from mi_toolkit.core.parquet import read_tables
from mi_toolkit.core.provenance import installed_versions
from mi_toolkit.core.result import fields_fit, structured
from mi_toolkit.core.resumable import Manifest, ResumableFolder, check_same, plain
from mi_toolkit.core.tables import write_parquet
from mi_toolkit.sweeps.jobs import RESULT, STORE, TASKS, Job, files_read

if TYPE_CHECKING:
    from mi_toolkit.core.tables import DataFrame


FORMAT, JOB_FORMAT = "mi_toolkit sweep 1", "mi_toolkit job of a sweep 1"
KIND = "job of a sweep"
RECORD, JOB_RECORD, JOBS, TABLE = "sweep.json", "job.json", "jobs", "table.parquet"
DONE = "result"
"""The part that a finished job is."""


@dataclass(frozen=True, kw_only=True)
class SweepSettings:
    """What decides figures besides the jobs, down to their last bits; not who does them."""

    threads: int
    texts_per_part: int
    load: Mapping[str, Any]
    """Further arguments of `load_model`."""


class JobFolder:
    """The folder of one job: parts of its work, then its result. The driver alone enters them."""

    def __init__(
        self, folder: Path, job: Job, settings: SweepSettings, *, mixed_versions: bool
    ) -> None:
        """Open the folder, or one that is to be made.

        Raises:
            SweepError: it holds the job done with other versions, settings or texts.
        """
        self.job, self.path = job, folder / JOBS / job.name
        about = {
            "job": job.record(),
            "settings": plain(vars(settings)),
            "texts": files_read(job),
            "versions": installed_versions(),
        }
        record = self.path / JOB_RECORD
        if mixed_versions and record.is_file():
            stored = Manifest.read(record, format=JOB_FORMAT, kind=KIND, error=SweepError)
            about["versions"] = stored.about.get("versions")
        self._kept = ResumableFolder(
            self.path, about, format=JOB_FORMAT, kind=KIND, file=JOB_RECORD, error=SweepError
        )

    def is_done(self, weights: str | None) -> bool:
        """Whether the result is there, whole.

        Args:
            weights: what tells the model's weights from others; None where they are not here.

        Raises:
            SweepError: it is of other weights.
        """
        part = self._kept.manifest.parts.get(DONE)
        if part is None or not self._kept.has(DONE, part.settings):
            return False
        if weights is not None and part.settings["weights"] is not None:
            check_same(part.settings, {"weights": weights}, self.path, KIND, SweepError)
        return True

    def has_part(self, name: str, weights: str | None) -> bool:
        """Whether a part is there, whole, and of these weights."""
        part = self._kept.manifest.parts.get(name)
        if part is None or not self._kept.has(name, part.settings):
            return False
        return weights is None or part.settings["weights"] in (None, weights)

    def enter_part(
        self, name: str, files: Sequence[str], weights: str | None, made_by: Mapping[str, Any]
    ) -> None:
        """Enter a finished part of the work."""
        self._kept.enter(name, {"weights": weights}, files, made_by=made_by)

    def enter_result(
        self, files: Sequence[str], weights: str | None, made_by: Mapping[str, Any]
    ) -> None:
        """Enter the result: what was kept on the way to it is removed."""
        self._kept.manifest = replace(self._kept.manifest, parts={})
        self.enter_part(DONE, sorted(files), weights, made_by)
        self._clear({JOB_RECORD, *files})

    def _clear(self, wanted: set[str]) -> None:
        stores = {self.path / name.partition("/")[0] for name in wanted if "/" in name}
        for path in sorted(self.path.rglob("*"), reverse=True):
            if path.is_dir():
                if not any(path.iterdir()):
                    path.rmdir()
            elif path.relative_to(self.path).as_posix() not in wanted and not (
                stores & set(path.parents)
            ):
                path.unlink()


def save_result(found: Any, job: Job, folder: Path) -> list[str]:
    """Write a job's result and its table into the job's folder; the files, as paths in it."""
    task = TASKS[job.task]
    if task.table is None:
        return [path.relative_to(folder).as_posix() for path in (folder / STORE).glob("*.json")]
    found.save(folder / RESULT)
    table = task.table(found)
    facts = {"job": job.name, "model": job.model, "revision": job.revision, "dtype": job.dtype}
    own = table.drop(columns=[name for name in facts if name in table.columns])
    for place, (name, value) in enumerate(facts.items()):
        own.insert(place, name, [value] * len(own))
    write_parquet(own, folder / TABLE)
    return [RESULT, TABLE]


def write_record(folder: Path, jobs: Sequence[Job], failed: Mapping[str, str]) -> None:
    """Write what the folder is of."""
    record = {
        "format": FORMAT,
        "jobs": [job.record() for job in jobs],
        "failed": dict(sorted(failed.items())),
    }
    with atomic_write(folder / RECORD) as draft:
        text = json.dumps(record, indent=1, ensure_ascii=False)
        draft.write_text(text + "\n", encoding="utf-8")


@dataclass(frozen=True, eq=False, repr=False)
class SweepResults(TableRepr):
    """A sweep on disk: nothing is read before it is asked for."""

    folder: Path
    """Where it is."""

    jobs: tuple[Job, ...]
    """The jobs, in the order in which they were given."""

    failed: Mapping[str, str]
    """Of the jobs that failed when they were last tried: why, by their names."""

    @property
    def done(self) -> tuple[Job, ...]:
        """The jobs whose results are here."""
        return tuple(job for job in self.jobs if self._manifest(job) is not None)

    def result(self, job: Job | str) -> Any:
        """One job's result: a `HeadReport`, a `Confirmation` or what else the task gives.

        Raises:
            UnknownNameError: the sweep has no such job.
            SweepError: the job is not done.
        """
        asked = self._named(job)
        if self._manifest(asked) is None:
            why = self.failed.get(asked.name)
            raise SweepError(
                f"{asked.name} failed: {why}" if why else f"{asked.name} is not done yet."
            )
        return TASKS[asked.task].load(self.folder / JOBS / asked.name)

    def provenance(self, job: Job | str) -> Mapping[str, Any]:
        """Versions, device and weights of one job's result.

        Raises:
            UnknownNameError: the sweep has no such job.
            SweepError: the job is not done.
        """
        asked = self._named(job)
        manifest = self._manifest(asked)
        if manifest is None:
            raise SweepError(f"{asked.name} is not done.")
        part = manifest.parts[DONE]
        return {**manifest.about, **part.settings, **part.facts["made_by"]}

    def to_pandas(self, task: str | None = None) -> DataFrame:
        """The rows of all results of one task: those of each, with its job and model in front.

        Args:
            task: whose; None where all jobs are of one task.

        Raises:
            UnknownNameError: the sweep has no such task.
            SweepError: it has several, or nothing of it is done.
        """
        tasks = list(dict.fromkeys(job.task for job in self.jobs))
        if task is None and len(tasks) > 1:
            raise SweepError(f"This sweep has tables of {len(tasks)} tasks: {', '.join(tasks)}.")
        asked = tasks[0] if task is None else task
        if asked not in tasks:
            raise unknown_name("task of this sweep", asked, tasks)
        paths = [
            self.folder / JOBS / job.name / TABLE
            for job in self.done
            if job.task == asked and TASKS[asked].table is not None
        ]
        if not paths:
            raise SweepError(f"No {asked} of this sweep has a table: {self.title()}.")
        return read_tables(paths)

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """One row per job: what it is, and whether it is done."""
        for job in self.jobs:
            state = "failed" if job.name in self.failed else "not done"
            yield {
                "job": job.name,
                "model": job.model,
                "revision": job.revision,
                "dtype": job.dtype,
                "task": job.task,
                "state": "done" if self._manifest(job) is not None else state,
                "reason": self.failed.get(job.name, ""),
                "arguments": json.dumps(job.arguments, ensure_ascii=False),
            }

    def title(self) -> str:
        """How far it is, in one line."""
        failed = f", {len(self.failed)} failed" if self.failed else ""
        return f"Sweep in {self.folder}: {len(self.done)} of {len(self.jobs)} jobs done{failed}"

    def text_table(self) -> TextTable:
        """How many jobs of each task are done, and why others failed."""
        done = {job.name for job in self.done}
        of_task: dict[str, list[Job]] = {}
        for job in self.jobs:
            of_task.setdefault(job.task, []).append(job)
        rows = [
            (task, f"{sum(job.name in done for job in jobs)} of {len(jobs)}")
            for task, jobs in of_task.items()
        ]
        rows += [(name, f"failed: {why}") for name, why in self.failed.items()]
        return TextTable(title=self.title(), rows=rows)

    def _named(self, job: Job | str) -> Job:
        by_name = {each.name: each for each in self.jobs}
        name = job if isinstance(job, str) else job.name
        if name not in by_name:
            raise unknown_name("job of this sweep", name, by_name, shown=[*by_name][:10])
        return by_name[name]

    def _manifest(self, job: Job) -> Manifest | None:
        """What a job's folder holds; None without a result in it."""
        path = self.folder / JOBS / job.name / JOB_RECORD
        if not path.is_file():
            return None
        manifest = Manifest.read(path, format=JOB_FORMAT, kind=KIND, error=SweepError)
        return manifest if DONE in manifest.parts else None


def open_sweep(folder: str | os.PathLike[str]) -> SweepResults:
    """Open the folder of a sweep, finished or not.

    Raises:
        SweepError: the folder holds no sweep, or one of another version.

    Example:
        >>> import mi_toolkit as mi
        >>> found = mi.open_sweep("results")  # doctest: +SKIP
        >>> found.to_pandas().query("label != ''")  # doctest: +SKIP
    """
    path = Path(folder) / RECORD
    if not path.is_file():
        raise SweepError(f"No sweep at {folder}: there is no {RECORD} in it.")
    record = read_json(path, SweepError)
    form = record.get("format")
    if form != FORMAT:
        raise SweepError(f"{path} is of another version ({form!r}; wanted {FORMAT!r}).")
    with fields_fit(path, KIND, SweepError):
        jobs = tuple(Job.of(each) for each in record["jobs"])
        if not jobs:
            raise ValueError("a sweep has jobs")
        failed = structured(record["failed"], dict[str, str])
    return SweepResults(Path(folder), jobs, failed)
