"""Jobs as values: their names, what is refused before any work, and studies in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import mi_toolkit as mi
from mi_toolkit.core.errors import ModelLoadError, ReportError, SweepError, UnknownNameError
from mi_toolkit.heads.classify import ClassificationInParts
from mi_toolkit.sweeps.jobs import TASKS, Job, jobs_over, read_study
from tests.every_job import differences, figures_of
from tests.models_here import loaded
from tests.sweeps.made import JOBS, TEXTS

STUDY = """
[[jobs]]
models = ["toy-gpt2", "toy-opt"]
task = "classify"
revisions = ["main", "other"]
arguments = { min_lift = 0.4 }

[[jobs]]
models = ["toy-gpt2"]
task = "verify"
dtypes = ["bfloat16"]
"""


def test_a_job_is_called_by_all_that_it_is() -> None:
    one = Job(model="org/name", revision="step1000", task="classify", arguments={"min_lift": 0.4})
    again = Job.of(one.record())
    assert one.name.startswith("org--name@step1000-classify-")
    assert again == one
    assert again.name == one.name
    others = [
        Job(model="org/name", task="classify", arguments={"min_lift": 0.4}),
        Job(model="org/name", revision="step1000", task="classify", arguments={"min_lift": 0.5}),
        Job(model="org/name", revision="step1000", task="classify", dtype="bfloat16"),
    ]
    assert len({one.name, *(other.name for other in others)}) == 4


def test_jobs_of_several_models_revisions_and_dtypes() -> None:
    jobs = jobs_over(["toy-gpt2", "toy-opt"], "verify", revisions=["a", "b"], dtypes=["float32"])
    assert [(job.model, job.revision) for job in jobs] == [
        *(("toy-gpt2", "a"), ("toy-gpt2", "b")),
        *(("toy-opt", "a"), ("toy-opt", "b")),
    ]


@pytest.mark.parametrize(
    ("asked", "kind", "told"),
    [
        ({"task": "clasify"}, UnknownNameError, "Did you mean 'classify'"),
        ({"dtype": "float8"}, UnknownNameError, "No dtype is called 'float8'"),
        ({"arguments": {"min_lft": 1}}, UnknownNameError, "Did you mean 'min_lift'"),
        ({"arguments": {"resume": "x"}}, UnknownNameError, "No argument of classify"),
        ({"arguments": {"min_lift": torch.ones(1)}}, SweepError, "which a file holds as JSON"),
        ({"task": "statistics"}, SweepError, "needs the argument 'texts'"),
        ({"task": "verify", "arguments": {"dtype": "x"}}, UnknownNameError, "'dtype'"),
        ({"model": 0.5}, SweepError, "The model of a job is a text, .* and not 0.5"),
        ({"revision": ["main"]}, SweepError, "The revision of a job is a text"),
    ],
)
def test_a_job_that_cannot_be_is_refused(asked, kind: type[Exception], told: str) -> None:
    with pytest.raises(kind, match=told):
        Job(**{"model": "toy-gpt2", "task": "classify", **asked})


def test_every_task_is_of_a_public_function() -> None:
    assert {task.function.__name__ for task in TASKS.values()} <= set(mi.__all__)
    assert {job.task for job in JOBS} == set(TASKS)


def test_a_study_is_read_from_a_file(tmp_path: Path) -> None:
    study = tmp_path / "study.toml"
    study.write_text(STUDY)
    jobs = read_study(study)
    assert len(jobs) == 5
    assert jobs[1] == Job(
        model="toy-gpt2", revision="other", task="classify", arguments={"min_lift": 0.4}
    )
    assert jobs[4] == Job(model="toy-gpt2", task="verify", dtype="bfloat16")


@pytest.mark.parametrize(
    ("text", "kind", "told"),
    [
        ("[[jobs]\n", SweepError, "cannot be read as a study"),
        ("", SweepError, "has no jobs"),
        ("[[job]]\nmodels = []", UnknownNameError, "Did you mean 'jobs'"),
        ("[[jobs]]\nmodel = 'toy-gpt2'", UnknownNameError, "Did you mean 'models'"),
        ("[[jobs]]\nmodels = ['toy-gpt2']", SweepError, "has no task"),
        ("[[jobs]]\nmodels = 'toy-gpt2'\ntask = 'verify'", SweepError, "models is a list"),
    ],
)
def test_a_study_that_says_something_else_is_refused(
    text: str, kind: type[Exception], told: str, tmp_path: Path
) -> None:
    study = tmp_path / "study.toml"
    study.write_text(text)
    with pytest.raises(kind, match=told):
        read_study(study)


def test_what_is_no_sweep_is_refused_before_any_work(tmp_path: Path) -> None:
    job = Job(model="toy-gpt2", task="classify")
    for jobs, kind, told in (
        ([], SweepError, "one job or more"),
        ([job, job], SweepError, "is there 2 times"),
        ([Job(model="toy-gpt", task="verify")], UnknownNameError, "Did you mean 'toy-gpt2'"),
        ([Job(model="./nowhere", task="verify")], ModelLoadError, "no folder"),
    ):
        with pytest.raises(kind, match=told):
            mi.sweep(jobs, tmp_path / "sweep")
    with pytest.raises(SweepError, match="threads and texts_per_part are 1 or more"):
        mi.sweep([job], tmp_path / "sweep", threads=0)
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize("n_parts", [2, 5, 9])
def test_classified_in_parts_is_classified_at_once_bit_for_bit(
    n_parts: int, tmp_path: Path
) -> None:
    model, given = loaded("toy-gpt2"), {"prompt": TEXTS, "batch_size": 2}
    paths = [tmp_path / f"{part}.safetensors" for part in range(n_parts)]
    in_parts = ClassificationInParts(model, n_parts=n_parts, **given)
    for part in reversed(range(n_parts)):  # more parts than batches, too
        in_parts.measure(paths[part], part)
    merged = in_parts.report(paths)
    assert differences(figures_of(merged), figures_of(mi.classify_heads(model, **given))) == []


def test_a_part_that_is_missing_or_of_something_else_is_refused(tmp_path: Path) -> None:
    model, given = loaded("toy-gpt2"), {"prompt": TEXTS[:4], "batch_size": 2}
    paths = [tmp_path / f"{part}.safetensors" for part in range(2)]
    in_parts = ClassificationInParts(model, n_parts=2, **given)
    in_parts.measure(paths[0], 0)
    with pytest.raises(ReportError, match="Part 2 of 2 is missing"):
        in_parts.report(paths)
    with pytest.raises(ReportError, match="part was"):
        in_parts.report([paths[0], paths[0]])
    others = ClassificationInParts(model, n_parts=2, batch_size=2, prompt=TEXTS[:3])
    with pytest.raises(ReportError, match="prompts was"):
        others.report(paths)


def test_a_part_holds_the_sums_of_its_own_texts(tmp_path: Path) -> None:
    model, many = loaded("toy-gpt2"), [f"{text} and so on" for text in TEXTS * 8]
    in_parts = ClassificationInParts(model, many, n_parts=8, batch_size=2)
    whole = ClassificationInParts(model, many, n_parts=1, batch_size=2)
    for part in range(2):
        in_parts.measure(tmp_path / f"{part}", part)
    whole.measure(tmp_path / "whole", 0)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert max(sizes["0"], sizes["1"]) < 0.3 * sizes["whole"]


def test_sums_that_are_no_numbers_are_kept_in_a_part(tmp_path: Path) -> None:
    model: Any = mi.load_model("toy-gpt2")
    with torch.no_grad():
        model.blocks[0].attn.q.weight.fill_(torch.nan)  # and so in every layer
    given: Any = {"prompt": TEXTS[:4], "batch_size": 2, "allow_nan": True}
    at_once = mi.classify_heads(model, **given, progress=False)
    assert at_once.score.isnan().all()
    in_parts = ClassificationInParts(model, n_parts=2, **given)
    for part in range(2):
        in_parts.measure(tmp_path / str(part), part)
    merged = in_parts.report([tmp_path / "0", tmp_path / "1"])
    assert differences(figures_of(merged), figures_of(at_once)) == []
