"""`dynamics`: the heads of a model's checkpoints, and when each became what it is.

1. The checkpoints are revisions of a hub repo, or the folders that a trainer wrote.
2. A sweep classifies the heads of each, by one protocol, and confirms labels where that is asked.
3. Of each head and label: its figure by training step, and its course, with the change points that
   `onsets` finds. Of each label: the course of its strongest head.
"""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from huggingface_hub import list_repo_refs
from jaxtyping import Bool, Float
from torch import Tensor

from mi_toolkit.core.display import TextTable
from mi_toolkit.core.errors import ModelLoadError, SweepError, in_one_line, unknown_name
from mi_toolkit.core.head import Head
from mi_toolkit.core.io import read_json
from mi_toolkit.core.result import Result, fields_fit
from mi_toolkit.heads.labels import behaviour_of
from mi_toolkit.heads.report import HeadReport
from mi_toolkit.models.checkpoints import is_of_the_client
from mi_toolkit.models.sources import find_source
from mi_toolkit.models.specs import find_known
from mi_toolkit.sweeps.jobs import Job
from mi_toolkit.sweeps.onsets import ChangePoint, Course, course
from mi_toolkit.sweeps.run import failures_in_words, sweep

PYTHIA_STEPS = (0, *(2**k for k in range(10)), *range(1000, 144_000, 1000))
"""Of which each Pythia model has a revision, `step512` say (arXiv 2304.01373)."""

PYTHIA_TOKENS = 2_097_152
"""Tokens to a step of it."""

LOG_POINTS = 20
"""Checkpoints, at most, of `revisions="log"`."""

_STEP = re.compile(r"(?:^|[-_])(?:step|checkpoint|ckpt)[-_]?(\d+)$", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model at some step of its training."""

    step: int
    tokens: int | None
    """Seen until then; None where nobody says."""

    model: str
    revision: str | None


@dataclass(frozen=True, kw_only=True)
class Confirmed:
    """What ablation said of a label at one checkpoint."""

    step: int
    label: str
    heads: tuple[Head, ...]
    verdict: str
    """`survives`, `fails` or `undecided`."""

    change: float
    """Of the loss, in nats, with the heads ablated."""

    q: float
    """The false discovery rate at which it would count."""


@dataclass(frozen=True, kw_only=True)
class Handover:
    """Of one label: a head that lost it as another got it."""

    label: str
    loser: Head
    winner: Head
    lost: int
    """The step at which the loser's course ends: a change point of its figure. Its label may go a
    checkpoint before or after."""

    won: int
    """The step of the winner's onset, likewise."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class HeadDynamics(Result):
    """What a model's heads were at each of some checkpoints."""

    FORMAT: ClassVar[str] = "mi_toolkit head dynamics 1"

    model: str
    """The hub id, or the folder of checkpoints."""

    steps: tuple[int, ...]
    """Of training, ascending."""

    tokens: tuple[int | None, ...]
    """Seen until each step; None where nobody says."""

    label_names: tuple[str, ...]
    """The labels that heads may carry."""

    figure: Float[Tensor, "checkpoint label layer head"]
    """What each label is judged by: the lift over chance, or a distribution's own value."""

    by_lift: tuple[bool, ...]
    """Of each label whether its lift alone decides. The others (a value within bounds, a lift that
    comes with suppression) began where heads carry them, whatever the figure does."""

    ci_low: Float[Tensor, "checkpoint label layer head"]
    """Lower end of its 95% interval."""

    ci_high: Float[Tensor, "checkpoint label layer head"]
    """Upper end of it."""

    labels: Bool[Tensor, "checkpoint label layer head"]
    """Which heads carry which label."""

    min_lift: float
    """The bar that a lift had to clear."""

    confirmed: tuple[Confirmed, ...]
    """What ablation said, where it was asked."""

    versions: Mapping[str, str]
    """Of the packages that decide the figures."""

    def index(self, label: str) -> int:
        """A label's place on the second axis.

        Raises:
            UnknownNameError: there is no such label here.
        """
        if label not in self.label_names:
            raise unknown_name("label of these checkpoints", label, self.label_names)
        return self.label_names.index(label)

    def course(self, label: str, head: Head | tuple[int, int] | str | None = None) -> Course:
        """When a head got and lost a label; without a head, when the model's strongest one did.

        The label's own course follows, at each checkpoint, whichever head is the strongest then.

        Raises:
            UnknownNameError: there is no such label here.
        """
        row = self.index(label)
        if head is not None:
            layer, index = Head.of(head)
            place = (slice(None), row, layer, index)
            return self._course(row, self.figure[place], self._errors[place], self.labels[place])
        flat = self.figure[:, row].flatten(1).nan_to_num(-math.inf)
        best = flat.argmax(dim=1, keepdim=True)
        errors = self._errors[:, row].flatten(1).gather(1, best)[:, 0]
        labelled = self.labels[:, row].flatten(1).any(dim=1)
        return self._course(row, flat.gather(1, best)[:, 0], errors, labelled)

    @cached_property
    def _errors(self) -> Float[Tensor, "checkpoint label layer head"]:
        """Standard errors, as wide as the intervals say."""
        return ((self.ci_high - self.ci_low) / (2 * 1.96)).nan_to_num(0.0)

    def _course(self, row: int, figure: Tensor, errors: Tensor, labelled: Tensor) -> Course:
        if not self.by_lift[row]:
            figure, errors = labelled.float(), torch.zeros(len(labelled))
        return course(figure.double().numpy(), errors.double().numpy(), labelled.numpy())

    def heads(self, label: str, state: str = "formed") -> list[Head]:
        """The heads of a label in a state: `formed`, `no longer`; those that formed first, first.

        Raises:
            UnknownNameError: there is no such label here, or no such state.
        """
        if state not in ("formed", "no longer"):
            raise unknown_name("state of a head", state, ("formed", "no longer"))
        found = []
        for layer, head in self.labels[:, self.index(label)].any(dim=0).nonzero().tolist():
            course = self.course(label, (layer, head))
            if course.state == state:
                found.append((course.onset.at if course.onset else 0, Head(layer, head)))
        return [head for _, head in sorted(found)]

    def handovers(self, window: int = 2) -> list[Handover]:
        """Heads that lost a label as another got it, at most `window` checkpoints apart."""
        found = []
        for label in self.label_names:
            lost = {head: self.course(label, head) for head in self.heads(label, "no longer")}
            won = {
                head: course
                for state in ("formed", "no longer")
                for head in self.heads(label, state)
                if (course := self.course(label, head)).onset is not None
            }
            for loser, gone in lost.items():
                for winner, come in won.items():
                    if loser == winner or gone.end is None or come.onset is None:
                        continue
                    if abs(gone.end.at - come.onset.at) <= window:
                        lost_at, won_at = self.steps[gone.end.at], self.steps[come.onset.at]
                        found.append(
                            Handover(
                                label=label, loser=loser, winner=winner, lost=lost_at, won=won_at
                            )
                        )
        return found

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """One row per checkpoint, label and head: figure, interval, whether the head has it."""
        n_layers, n_heads = self.figure.shape[2:]
        for place, (step, tokens) in enumerate(zip(self.steps, self.tokens, strict=True)):
            for row, label in enumerate(self.label_names):
                for layer in range(n_layers):
                    for head in range(n_heads):
                        cell = (place, row, layer, head)
                        yield {
                            "model": self.model,
                            "step": step,
                            "tokens": tokens,
                            "label": label,
                            "layer": layer,
                            "head": head,
                            "name": str(Head(layer, head)),
                            "figure": float(self.figure[cell]),
                            "ci_low": float(self.ci_low[cell]),
                            "ci_high": float(self.ci_high[cell]),
                            "labelled": bool(self.labels[cell]),
                        }

    def onset_rows(self) -> Iterator[Mapping[str, Any]]:
        """One row per label and head that ever carried it, under one for the label itself."""
        for label in self.label_names:
            course = self.course(label)
            yield {"label": label, "head": "", **self._in_steps(course)}
            if course.state == "not yet":
                continue
            for state in ("formed", "no longer"):
                for head in self.heads(label, state):
                    found = self._in_steps(self.course(label, head))
                    yield {"label": label, "head": str(head), **found}

    def _in_steps(self, course: Course) -> dict[str, Any]:
        return {
            "state": course.state,
            "from_the_first": course.from_the_first,
            **self._point("onset", course.onset),
            **self._point("end", course.end),
        }

    def _point(self, name: str, point: ChangePoint | None) -> dict[str, int | None]:
        if point is None:
            return dict.fromkeys((name, f"{name}_low", f"{name}_high", f"{name}_tokens"))
        return {
            name: self.steps[point.at],
            f"{name}_low": self.steps[point.low],
            f"{name}_high": self.steps[point.high],
            f"{name}_tokens": self.tokens[point.at],
        }

    def title(self) -> str:
        """What was followed, in one line."""
        n_layers, n_heads = self.figure.shape[2:]
        folder = Path(self.model)
        return (
            f"Heads of {folder.name if folder.is_absolute() else self.model} over training: "
            f"{n_layers * n_heads} heads at {len(self.steps)} checkpoints, "
            f"steps {self.steps[0]:,} to {self.steps[-1]:,}"
        )

    def text_table(self) -> TextTable:
        """Of each label: when it came, when it went, and which heads carry it."""
        rows = []
        for label in self.label_names:
            course = self.course(label)
            heads = [str(head) for head in self.heads(label)]
            gone = [str(head) for head in self.heads(label, "no longer")]
            more = f"; no longer {' '.join(gone[:6])}" if gone else ""
            now = f"{len(heads)}: {' '.join(heads[:8])}" if heads else "none"
            rows.append((label, self.in_words(course), now + more))
        return TextTable(title=self.title(), header=("label", "course", "heads"), rows=rows)

    def in_words(self, course: Course) -> str:
        """A course in words: `formed at step 256 (between 192 and 320)`."""
        if course.state == "not yet":
            return "not yet"
        words = "formed, at no step that stands out"
        if course.from_the_first:
            words = "there from the first checkpoint"
        elif course.onset is not None:
            words = f"formed at step {self._between(course.onset)}"
        if course.state == "formed":
            return words
        return (
            f"{words}, gone at step {self._between(course.end)}" if course.end else f"{words}, gone"
        )

    def _between(self, point: ChangePoint) -> str:
        low, high = self.steps[point.low], self.steps[point.high]
        return f"{self.steps[point.at]:,} (between {low:,} and {high:,})"


def dynamics(
    model: str | os.PathLike[str],
    revisions: str | Sequence[str | int] = "log",
    *,
    output: str | os.PathLike[str] | None = None,
    confirm_at: Iterable[int] = (),
    confirm: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    tokens_per_step: int | None = None,
    how: Mapping[str, Any] | None = None,
    **classify: Any,
) -> HeadDynamics:
    """When a model's heads became what they are: labels and figures at its checkpoints.

    The onset of a label is a change point among the checkpoints that were looked at, with an
    interval; what happened between two of them nobody saw. A label is a hypothesis at each of them
    as it is elsewhere: `confirm_at` has ablation test it where that matters.

    Args:
        model: a hub id, or a folder whose folders are checkpoints (`checkpoint-500`, `step500`), as
            transformers' Trainer writes them.
        revisions: "log" for about twenty that are spread evenly over the logarithm of the steps,
            "all", or the revisions (steps, or names such as `step1000`).
        output: the folder of the sweep, which goes on after an interruption; None for none.
        confirm_at: steps at which `confirm_heads` tests the labels.
        confirm: further arguments of `confirm_heads`.
        dtype: the weights' precision.
        tokens_per_step: tokens of a training step; None: as the checkpoints or Pythia's paper say.
        how: further arguments of `sweep`: workers, address, threads, progress.
        classify: arguments of `classify_heads`, such as `prompt` or `min_lift`.

    Raises:
        SweepError: fewer than two checkpoints, a step that is none of them, or a job that failed.
        ModelLoadError: the hub cannot be asked which revisions there are.
        UnknownNameError: an argument that does not exist.

    Example:
        >>> import mi_toolkit as mi
        >>> found = mi.dynamics("EleutherAI/pythia-160m", output="pythia")  # doctest: +SKIP
        >>> found.course("induction")  # doctest: +SKIP
    """
    points = checkpoints_of(os.fspath(model), revisions, tokens_per_step)
    asked = sorted(set(confirm_at))
    if unknown := [step for step in asked if step not in [point.step for point in points]]:
        raise SweepError(f"confirm_at={unknown[0]} is none of the checkpoints that are looked at.")
    if len(points) < 2:
        raise SweepError(f"Heads over training need two checkpoints or more of {model}.")
    jobs = {point.step: _job(point, "classify", dtype, classify) for point in points}
    tested = {"classify": classify, **(confirm or {})}
    trials = {
        point.step: _job(point, "confirm", dtype, tested) for point in points if point.step in asked
    }
    with tempfile.TemporaryDirectory() as scratch:
        done = sweep([*jobs.values(), *trials.values()], output or scratch, **(how or {}))
        if done.failed:
            reasons = failures_in_words(done.failed)
            raise SweepError(f"{len(done.failed)} of {len(done.jobs)} jobs failed: {reasons}")
        reports = [done.result(job) for job in jobs.values()]
        confirmed = tuple(
            Confirmed(
                step=step,
                label=trial.label,
                heads=tuple(trial.heads),
                verdict=trial.verdict,
                change=float(trial.effect.change),
                q=float(trial.q),
            )
            for step, job in trials.items()
            for trial in done.result(job).trials
        )
    return _assembled(os.fspath(model), points, reports, confirmed)


def _job(point: Checkpoint, task: str, dtype: str, arguments: Mapping[str, Any]) -> Job:
    return Job(
        model=point.model, revision=point.revision, task=task, dtype=dtype, arguments=arguments
    )


def _assembled(
    model: str,
    points: Sequence[Checkpoint],
    reports: Sequence[HeadReport],
    confirmed: tuple[Confirmed, ...],
) -> HeadDynamics:
    first = reports[0]
    names = first.label_names
    rows = [first.index(behaviour_of(name, first.facts)) for name in names]

    def stacked(field: str) -> Tensor:
        return torch.stack([getattr(report, field)[rows] for report in reports])

    figures = [torch.stack([report[report.behaviour_of(n)] for n in names]) for report in reports]
    return HeadDynamics(
        model=model,
        steps=tuple(point.step for point in points),
        tokens=tuple(point.tokens for point in points),
        label_names=names,
        figure=torch.stack(figures),
        by_lift=tuple(name in first.facts and first.facts[name].has_chance for name in names),
        ci_low=stacked("ci_low"),
        ci_high=stacked("ci_high"),
        labels=torch.stack([report.labels for report in reports]),
        min_lift=first.min_lift,
        confirmed=confirmed,
        versions=first.provenance.versions,
    )


def checkpoints_of(
    model: str, revisions: str | Sequence[str | int], tokens_per_step: int | None
) -> list[Checkpoint]:
    """The checkpoints that are asked for, by their steps, each step once.

    Raises:
        SweepError: one that is not there, or none is.
        ModelLoadError: the hub cannot be asked which there are.
    """
    folder = Path(model).expanduser()
    there = _in_folder(folder) if folder.is_dir() else None
    if isinstance(revisions, str):
        if revisions not in ("log", "all"):
            raise unknown_name("choice of revisions", revisions, ("log", "all"))
        steps = sorted(there if there is not None else _on_hub(model))
        chosen = _log_spaced(steps) if revisions == "log" else steps
    else:
        chosen = sorted({_step_of(str(each)) for each in revisions})
    found = []
    for step in chosen:
        tokens = step * tokens_per_step if tokens_per_step else None
        if there is not None:
            if step not in there:
                known = ", ".join(map(str, sorted(there)))
                raise SweepError(f"{model} has no checkpoint of step {step}: there are {known}.")
            seen = tokens if tokens is not None else _tokens_seen(there[step])
            found.append(Checkpoint(step=step, tokens=seen, model=str(there[step]), revision=None))
            continue
        if tokens is None and _is_pythia(model):
            tokens = step * PYTHIA_TOKENS
        found.append(Checkpoint(step=step, tokens=tokens, model=model, revision=f"step{step}"))
    return found


def _step_of(revision: str) -> int:
    if revision.isdecimal():
        return int(revision)
    match = _STEP.search(revision)
    if match is None:
        raise SweepError(f"{revision!r} names no step of training: give step1000, or 1000.")
    return int(match[1])


def _in_folder(folder: Path) -> dict[int, Path]:
    """The checkpoints in a folder by their steps.

    Raises:
        SweepError: there is none.
    """
    found = {
        int(match[1]): path
        for path in folder.iterdir()
        if path.is_dir() and (match := _STEP.search(path.name))
    }
    if not found:
        raise SweepError(
            f"{folder} has no checkpoints: folders in it such as checkpoint-500 or step500."
        )
    return found


def _tokens_seen(folder: Path) -> int | None:
    """What transformers' Trainer noted, where it was told to count."""
    path = folder / "trainer_state.json"
    if not path.is_file():
        return None
    state = read_json(path, SweepError)
    with fields_fit(path, "state of a Trainer", SweepError):
        seen, step = (
            int(state.get("num_input_tokens_seen") or 0),
            int(state.get("global_step") or 0),
        )
    # A Trainer that was not told to count says 0 at every step.
    return None if not seen and step else seen


def _is_pythia(model: str) -> bool:
    known = find_known(model)
    return known is not None and known.family == "Pythia"


def _on_hub(model: str) -> list[int]:
    """The steps that a hub repo has revisions of."""
    if find_source(model).kind != "hub":
        raise SweepError(
            f"{model} is one model without its checkpoints: give a folder of them, or a repo of "
            "the hub that has them as revisions, such as EleutherAI/pythia-160m."
        )
    if _is_pythia(model):
        return list(PYTHIA_STEPS)
    try:
        names = [ref.name for ref in list_repo_refs(model).branches]
    except Exception as error:
        if not (isinstance(error, OSError | ValueError) or is_of_the_client(error)):
            raise
        raise ModelLoadError(
            f"The hub cannot be asked which revisions {model} has: name them, as in "
            f"revisions=['step1000', 'step2000']. ({in_one_line(error)})"
        ) from error
    steps = [int(match[1]) for name in names if (match := _STEP.search(name))]
    if not steps:
        raise SweepError(f"{model} has no revisions such as step1000: it has {', '.join(names)}.")
    return steps


def _log_spaced(steps: Sequence[int]) -> list[int]:
    """At most `LOG_POINTS` of them, the first and the last, evenly over their logarithms."""
    if len(steps) <= LOG_POINTS:
        return list(steps)
    top = math.log1p(steps[-1])
    wanted = [math.expm1(top * k / (LOG_POINTS - 1)) for k in range(LOG_POINTS)]
    nearest = {min(steps, key=lambda step: abs(math.log1p(step) - math.log1p(w))) for w in wanted}
    return sorted({steps[0], *nearest, steps[-1]})
