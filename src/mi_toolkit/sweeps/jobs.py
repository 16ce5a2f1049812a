"""Jobs: what is done to which model, in plain values, and the functions that do it.

1. A `Job` names a model, a task and its arguments. All of it is JSON: nothing of a job is pickled
   into a file, and equal jobs have equal names.
2. `TASKS` has for each task the library's own function, and how its result is saved and listed.
3. Tasks that read many texts are split into parts by the number of texts alone, never by who does
   them; parts are put together in their order. So any number of workers gives the same bits.
"""

from __future__ import annotations

import inspect
import itertools
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mi_toolkit.activations.batcher import documents
from mi_toolkit.activations.measure import activation_statistics
from mi_toolkit.activations.statistics import ActivationStatistics
from mi_toolkit.activations.store.reader import open_activations
from mi_toolkit.activations.store.writer import record_to_disk
from mi_toolkit.core.errors import SweepError, short_repr, unknown_name
from mi_toolkit.core.io import file_digest, folder_name
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.resumable import fingerprint, plain
from mi_toolkit.heads.classify import ClassificationInParts, classify_heads
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.interventions.confirm.confirmation import Confirmation
from mi_toolkit.interventions.confirm.label_sets import confirm_heads
from mi_toolkit.interventions.sweep import AblationSweep, ablation_sweep
from mi_toolkit.models.load import dtype_named
from mi_toolkit.verification.verify import Verification, verify_model
from mi_toolkit.weights.score import score_weights
from mi_toolkit.weights.weight_scores import WeightScores

if TYPE_CHECKING:
    from mi_toolkit.core.tables import DataFrame


RESULT, STORE = "result.safetensors", "activations"
"""What a job's folder keeps its result in: a file, or the folder of a recording."""

BATCH_SIZE = 16
"""Sequences to a pass where a job says nothing. `classify_heads` by itself takes as many as memory
has room for: the last bits of its figures would hang on the machine."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One task on one model."""

    model: str
    """As `load_model` takes it."""

    task: str
    """One of `TASKS`: classify, confirm, record, statistics, score_weights, ablation_sweep,
    verify."""

    revision: str | None = None
    """A branch, tag or commit of the hub repo."""

    dtype: str = "float32"
    """The weights' precision."""

    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Of the task's function, by name, as plain values: numbers, texts, lists, mappings."""

    def __post_init__(self) -> None:
        """Check what can be checked without the model.

        Raises:
            UnknownNameError: no such task, dtype or argument of the task.
            SweepError: an argument is no plain value, or a task lacks one; a name that is no text.
        """
        for name in ("model", "task", "revision", "dtype"):
            value = getattr(self, name)
            if not isinstance(value, str) and (name, value) != ("revision", None):
                raise SweepError(
                    f"The {name} of a job is a text, as a file holds it, and not "
                    f"{short_repr(value)}."
                )
        if self.task not in TASKS:
            raise unknown_name("task", self.task, TASKS)
        dtype_named(self.dtype)
        try:
            kept = plain(dict(self.arguments))
        except (TypeError, ValueError) as error:
            raise SweepError(
                f"A job's arguments are numbers, texts, lists and mappings, which a file holds as "
                f"JSON; those of this {self.task} on {self.model} are not: {error}."
            ) from error
        object.__setattr__(self, "dtype", self.dtype.removeprefix("torch."))
        object.__setattr__(self, "arguments", kept)
        TASKS[self.task].check(self)

    @cached_property
    def name(self) -> str:
        """What the job is called: the model, the task, and a digest of all that it is.

        >>> Job(model="toy-gpt2", task="classify").name
        'toy-gpt2-classify-...'
        """
        at = f"@{folder_name(self.revision)}" if self.revision else ""
        return f"{folder_name(self.model)}{at}-{self.task}-{fingerprint(self.record())[:8]}"

    def record(self) -> dict[str, Any]:
        """The job as plain values."""
        return asdict(self)

    @staticmethod
    def of(record: Mapping[str, Any]) -> Job:
        """The job with that record.

        Raises:
            UnknownNameError: a field that jobs do not have, or as a job itself does.
            SweepError: as a job itself does, no record, or a field is missing.
        """
        if not isinstance(record, Mapping):
            raise SweepError(
                f"A job is a Job or its record, not {short_repr(record)}: "
                "mi.sweeps.jobs_over(['toy-gpt2'], 'classify') makes one for each model, "
                "mi.sweeps.read_study(path) those of a file."
            )
        known = [*Job.__dataclass_fields__]
        for key in record:
            if key not in known:
                raise unknown_name("field of a job", key, known)
        if missing := [key for key in ("model", "task") if key not in record]:
            raise SweepError(f"A job has no {missing[0]}: {dict(record)}.")
        return Job(**record)


Run = Callable[[HookedModel, Job, Path], Any]
"""Does a job and gives its result; in the folder it keeps what an interrupted job goes on with."""


class Parts(Protocol):
    """A job that is done in parts, on a model."""

    def measure(self, path: Path, part: int, texts: range) -> None:
        """Measure the part of that number, which has the texts of that range, into a file."""

    def merged(self, paths: Sequence[Path]) -> Any:
        """The job's result, from the files of all parts in their order."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """How the work of a job is done in parts."""

    n_texts: Callable[[Job], int]
    """How many texts it reads."""

    begun: Callable[[HookedModel, Job, int], Parts]
    """Make ready for so many parts what all of them need."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A kind of work."""

    function: Callable[..., Any]
    """Of the library; a job's arguments are its own."""

    run: Run
    load: Callable[[Path], Any]
    """The result, from a job's folder."""

    table: Callable[[Any], DataFrame] | None = lambda found: found.to_pandas()
    """What the sweep's table has of a result; None for nothing."""

    needs: tuple[str, ...] = ()
    """Arguments that it does not go without."""

    further: tuple[str, ...] = ()
    """Arguments beyond those of the function."""

    not_asked: tuple[str, ...] = ()
    """Arguments of the function that the job itself gives."""

    split: Split | None = None
    """How it is done in parts; None: as a whole."""

    def check(self, job: Job) -> None:
        """Check a job's arguments.

        Raises:
            UnknownNameError: there is no such argument.
            SweepError: one is missing.
        """
        known = [*self.further, *inspect.signature(self.function).parameters]
        known = [name for name in known if name not in (*_GIVEN_BY_SWEEPS, *self.not_asked)]
        for name in job.arguments:
            if name not in known:
                raise unknown_name(f"argument of {job.task}", name, known)
        for name in self.needs:
            if name not in job.arguments:
                raise SweepError(f"{job.task} needs the argument {name!r} (job on {job.model}).")

    def n_parts(self, job: Job, texts_per_part: int) -> int:
        """Into how many parts a job is split: by its texts alone, at least one."""
        if self.split is None:
            return 1
        return max(1, -(-self.split.n_texts(job) // texts_per_part))


_GIVEN_BY_SWEEPS = {
    *("model", "name", "path", "resume", "progress", "report"),
    *("backend", "device", "revision", "trust_remote_code", "cache"),
}


def _classify(model: HookedModel, job: Job, folder: Path) -> HeadReport:
    return classify_heads(
        model, **{"batch_size": BATCH_SIZE, **job.arguments}, resume=folder / "sums", progress=False
    )


class _ClassifiedInParts:
    """By batch, not by text: which texts run together is for all of them to say."""

    def __init__(self, model: HookedModel, job: Job, n_parts: int) -> None:
        given = {"batch_size": BATCH_SIZE, "prompt": None, **job.arguments}
        self._classification = ClassificationInParts(model, n_parts=n_parts, **given)

    def measure(self, path: Path, part: int, texts: range) -> None:
        self._classification.measure(path, part, progress=False)

    def merged(self, paths: Sequence[Path]) -> HeadReport:
        return self._classification.report(paths)


def _n_prompts(job: Job) -> int:
    """Texts, or sequences of ids, of a prompt; chat messages and ids alone are one."""
    prompt = job.arguments.get("prompt")
    is_several = isinstance(prompt, list) and all(isinstance(each, str | list) for each in prompt)
    return len(prompt) if is_several and prompt is not None else 1


def _confirm(model: HookedModel, job: Job, folder: Path) -> Confirmation:
    """Of the heads that the job names, or of those that the standard protocol labels."""
    given = dict(job.arguments)
    classify, labelled = given.pop("classify", {}), given.pop("heads", None)
    if labelled is None:
        sums = folder / "sums"
        labelled = classify_heads(
            model, **{"batch_size": BATCH_SIZE, **classify}, resume=sums, progress=False
        )
    return confirm_heads(model, labelled, **given, resume=folder / "losses", progress=False)


def _record(model: HookedModel, job: Job, folder: Path) -> Any:
    return record_to_disk(model, path=folder / STORE, progress=False, **job.arguments)


def _statistics(model: HookedModel, job: Job, folder: Path) -> ActivationStatistics:
    return activation_statistics(model, progress=False, **job.arguments)


def _documents(job: Job) -> Iterable[Any]:
    return documents(job.arguments["texts"], job.arguments.get("field", "text"))


class _StatisticsInParts:
    def __init__(self, model: HookedModel, job: Job, n_parts: int) -> None:
        self._model, self._job = model, job

    def measure(self, path: Path, part: int, texts: range) -> None:
        own = list(itertools.islice(_documents(self._job), texts.start, texts.stop))
        given = {**self._job.arguments, "texts": own}
        activation_statistics(self._model, progress=False, **given).save(path)

    def merged(self, paths: Sequence[Path]) -> ActivationStatistics:
        return reduce(ActivationStatistics.merge, map(ActivationStatistics.load, paths))


def _score(model: HookedModel, job: Job, folder: Path) -> WeightScores:
    return score_weights(model, **job.arguments)


def _ablate(model: HookedModel, job: Job, folder: Path) -> AblationSweep:
    return ablation_sweep(model, progress=False, **job.arguments)


def _verify(model: HookedModel, job: Job, folder: Path) -> Verification:
    return verify_model(
        job.model, model=model, revision=job.revision, progress=False, **job.arguments
    )


TASKS: Mapping[str, Task] = {
    "classify": Task(
        function=classify_heads,
        run=_classify,
        load=lambda folder: HeadReport.load(folder / RESULT),
        split=Split(n_texts=_n_prompts, begun=_ClassifiedInParts),
    ),
    "confirm": Task(
        function=confirm_heads,
        run=_confirm,
        load=lambda folder: Confirmation.load(folder / RESULT),
        further=("heads", "classify"),
    ),
    "record": Task(
        function=record_to_disk,
        run=_record,
        load=lambda folder: open_activations(folder / STORE),
        table=None,
        needs=("texts", "names"),
    ),
    "statistics": Task(
        function=activation_statistics,
        run=_statistics,
        load=lambda folder: ActivationStatistics.load(folder / RESULT),
        needs=("texts", "names"),
        split=Split(n_texts=lambda job: sum(1 for _ in _documents(job)), begun=_StatisticsInParts),
    ),
    "score_weights": Task(
        function=score_weights,
        run=_score,
        load=lambda folder: WeightScores.load(folder / RESULT),
        table=WeightScores.by_layer,
    ),
    "ablation_sweep": Task(
        function=ablation_sweep,
        run=_ablate,
        load=lambda folder: AblationSweep.load(folder / RESULT),
        needs=("prompt",),
    ),
    "verify": Task(
        function=verify_model,
        run=_verify,
        load=lambda folder: Verification.load(folder / RESULT),
        not_asked=("dtype",),
    ),
}
"""By name."""


def files_read(job: Job) -> dict[str, str]:
    """Files of texts that a job names, with their SHA-256: other texts are another job."""
    texts = job.arguments.get("texts")
    if job.task in ("record", "statistics") and isinstance(texts, str):
        return {texts: file_digest(texts)}
    return {}


def jobs_over(
    models: Iterable[str],
    task: str,
    *,
    revisions: Iterable[str | None] = (None,),
    dtypes: Iterable[str] = ("float32",),
    **arguments: Any,
) -> list[Job]:
    """One task on each model, at each revision, in each precision, all with the same arguments.

    >>> [job.model for job in jobs_over(["toy-gpt2", "toy-opt"], "classify", min_lift=0.5)]
    ['toy-gpt2', 'toy-opt']

    Raises:
        UnknownNameError, SweepError: as a `Job` does.
    """
    return _product(models, revisions, dtypes, task, arguments)


def _product(
    models: Iterable[str],
    revisions: Iterable[str | None],
    dtypes: Iterable[str],
    task: str,
    arguments: Mapping[str, Any],
) -> list[Job]:
    return [
        Job(model=model, revision=revision, dtype=dtype, task=task, arguments=arguments)
        for model, revision, dtype in itertools.product(models, list(revisions), list(dtypes))
    ]


_STUDY_KEYS = ("models", "task", "revisions", "dtypes", "arguments")


def read_study(path: str | Path) -> list[Job]:
    """The jobs of a file in TOML: of each table `[[jobs]]` those that `jobs_over` gives.

        [[jobs]]
        models = ["toy-gpt2", "toy-opt"]
        task = "classify"
        arguments = { min_lift = 0.4 }

    Raises:
        SweepError: the file is not there, is no TOML, or says something else.
        UnknownNameError: a key, a task or an argument that does not exist.
    """
    try:
        study = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SweepError(f"{path} cannot be read as a study: {error}.") from error
    for key in study:
        if key != "jobs":
            raise unknown_name("part of a study", key, ["jobs"])
    tables = study.get("jobs")
    if not isinstance(tables, list) or not tables:
        raise SweepError(f"{path} has no jobs: a study has a table [[jobs]], or several.")
    jobs: list[Job] = []
    for table in tables:
        for key in table:
            if key not in _STUDY_KEYS:
                raise unknown_name("key of [[jobs]]", key, _STUDY_KEYS)
        if missing := [key for key in ("models", "task") if key not in table]:
            raise SweepError(f"{path}: a table [[jobs]] has no {missing[0]}.")
        for key in ("models", "revisions", "dtypes"):
            if not isinstance(table.get(key, []), list):
                raise SweepError(f"{path}: {key} is a list, as in {key} = [{table[key]!r}].")
        revisions, dtypes = table.get("revisions", [None]), table.get("dtypes", ["float32"])
        arguments = table.get("arguments", {})
        jobs += _product(table["models"], revisions, dtypes, table["task"], arguments)
    return jobs
