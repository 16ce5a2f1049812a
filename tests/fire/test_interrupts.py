"""Ctrl-C at random moments: the model, its hooks, torch and all files are as they were.

A moment is a call of a Python function, counted from the job's begin: there Python looks for
signals, and a run again with the same seed is interrupted at the same ones.
`FIRE_SEED=123 make fire` takes others.
"""

from __future__ import annotations

import random
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

import mi_toolkit as mi
from tests.every_job import differences, figures_of
from tests.fire.test_kills import SEED
from tests.models_here import loaded

MODEL = "toy-qwen2"
MOMENTS = 20
PROMPT, OTHER = "Mary and John went to", "Mary and John went in"
WEIGHTS = [("blocks.0.attn.W_O", 3, 5), ("blocks.1.mlp.W_out", 7, 2)]

Job = Callable[[Any, Path], Any]


def ablation(model: Any, _: Path) -> Any:
    with mi.ablating(model, ["L0H1", "L1N3"], "mean", reference=OTHER):
        model(torch.tensor([[5, 6, 7, 8]]))
    return mi.ablation_effect(model, PROMPT, ["L0H1"], how="resample", reference=OTHER)


def perturbation(model: Any, _: Path) -> Any:
    for kind in ("zero", "scale"):
        with mi.perturbed(model, WEIGHTS, kind, scale=0.5):
            model(torch.tensor([[5, 6, 7, 8]]))
    return mi.weights.perturbation_effect(model, PROMPT, WEIGHTS, n_random=2, max_new_tokens=0)


def patching(model: Any, _: Path) -> Any:
    return mi.activation_patching(model, PROMPT, OTHER, target=" the", what="z")


def generation(model: Any, _: Path) -> Any:
    return mi.generate(model, PROMPT, max_new_tokens=3, num_beams=2)


def classification(model: Any, folder: Path) -> Any:
    return mi.classify_heads(model, [PROMPT, OTHER], batch_size=1, resume=folder / "sums")


JOBS: Mapping[str, Job] = {
    each.__name__: each for each in (ablation, perturbation, patching, generation, classification)
}


class Interrupt:
    """A trace function that counts calls, and presses Ctrl-C at one of them."""

    def __init__(self, at: int | None = None) -> None:
        self.calls, self.at = 0, at
        self.ignored = False

    def ignore(self, what: Any) -> None:
        """Python drops what is raised while it collects an object: Ctrl-C there has no effect."""
        self.ignored = what.exc_type is KeyboardInterrupt

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        self.calls += 1
        if self.calls == self.at:
            signal.raise_signal(signal.SIGINT)


def done(job: Job, model: Any, folder: Path, interrupt: Interrupt) -> Any:
    """What the job finds and saves; the interrupt counts along."""
    before, sys.unraisablehook = sys.unraisablehook, interrupt.ignore
    sys.settrace(interrupt)
    try:
        found = job(model, folder)
        found.save(folder / "result")
    finally:
        sys.settrace(None)
        sys.unraisablehook = before
    return found


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "fwd_hooks", "bwd_hooks")


def state_of(model: Any) -> dict[str, Any]:
    """All that a job might leave behind: on the modules, in configs, in torch, in this process."""
    modules = [*model.modules(), *model.original_model.modules()]
    return {
        "weights": [weight.detach().clone() for weight in model.parameters()],
        "gradients": [weight.grad for weight in model.parameters()],
        "wants gradients": [weight.requires_grad for weight in model.parameters()],
        "training": [module.training for module in modules],
        "hooks": [
            [id(each) for each in getattr(module, name, None) or ()]
            for module in modules
            for name in HOOKS
        ],
        "attributes": [sorted(vars(module)) for module in modules],
        "attention": model.original_model.config._attn_implementation,
        "defaults of generation": id(model.original_model.generation_config),
        "gradients on": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "random": torch.random.get_rng_state(),
        "handler": signal.getsignal(signal.SIGINT),
    }


def left_over(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs, by name."""

    def same(one: Any, other: Any) -> bool:
        if isinstance(one, torch.Tensor):
            return torch.equal(one, other)
        if isinstance(one, list):
            return len(one) == len(other) and all(map(same, one, other))
        return bool(one == other)

    return [name for name in before if not same(before[name], now[name])]


@pytest.fixture
def handler() -> Iterator[None]:
    """Ctrl-C as in a terminal: a shell starts what runs in the background without it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def check(name: str, moments: int, folder: Path) -> None:
    """Interrupt a job at so many random moments, and look at what is left each time."""
    job, model, counted = JOBS[name], loaded(MODEL), Interrupt()
    for run, counting in (("first", Interrupt()), ("whole", counted)):  # the first imports
        (folder / run).mkdir()
        whole = done(job, model, folder / run, counting)
    again = folder / "again"
    again.mkdir()
    (again / "result").write_bytes((folder / "whole" / "result").read_bytes())
    chosen = random.Random(f"{SEED} {name}")
    before, n_interrupts = state_of(model), 0
    for _ in range(moments):
        interrupt = Interrupt(chosen.randrange(1, counted.calls))
        told = f"FIRE_SEED={SEED}, {name}, call {interrupt.at} of {counted.calls}"
        try:
            done(job, model, again, interrupt)
        except KeyboardInterrupt:
            n_interrupts += 1
        else:  # what goes on from a file needs fewer calls
            came = interrupt.calls >= interrupt.at
            assert not came or interrupt.ignored, f"{told}: the interrupt is lost"
            (again / "sums").unlink(missing_ok=True)
        assert left_over(before, state_of(model)) == [], told
        assert [path.name for path in again.rglob(".*")] == [], told
        kept = type(whole).load(again / "result")
        assert differences(figures_of(whole), figures_of(kept)) == [], told
    assert n_interrupts >= moments / 2
    found = done(job, model, again, Interrupt())
    assert differences(figures_of(whole), figures_of(found)) == []


@pytest.mark.slow
@pytest.mark.usefixtures("handler")
def test_ctrl_c_leaves_nothing_behind_at_two_moments(tmp_path: Path) -> None:
    for job in ("ablation", "generation"):
        (tmp_path / job).mkdir()
        check(job, 2, tmp_path / job)


@pytest.mark.fire
@pytest.mark.usefixtures("handler")
@pytest.mark.parametrize("job", JOBS)
def test_ctrl_c_leaves_nothing_behind(job: str, tmp_path: Path) -> None:
    check(job, MOMENTS, tmp_path)
