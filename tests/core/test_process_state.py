"""Figures do not hang on torch's switches, and threads take turns at a model."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import mi_toolkit as mi
from mi_toolkit.core import process_state
from mi_toolkit.core.errors import WeightError
from mi_toolkit.core.model import HookedModel
from mi_toolkit.core.process_state import alone_with, known_state, others_first
from mi_toolkit.models.load import load_model
from tests.every_job import CLEAN, JOBS, PROMPT, TEXTS, WEIGHT, differences, figures_of
from tests.models_here import loaded
from tests.tiny_models import tiny_model

LAYER_0 = ["L0"]


@contextmanager
def switched(*, dtype: torch.dtype, all_else: bool) -> Iterator[None]:
    """Torch as a caller may have left it: another default dtype, and every other switch."""
    before = torch.get_default_dtype()
    with ExitStack() as stack:
        torch.set_default_dtype(dtype)
        stack.callback(torch.set_default_dtype, before)
        if all_else:
            stack.enter_context(torch.inference_mode())
            stack.enter_context(torch.autocast("cpu", dtype=torch.bfloat16))
            stack.enter_context(torch.device("meta"))
        yield
        assert torch.get_default_dtype() == dtype
        assert torch.is_inference_mode_enabled() == all_else
        assert torch.is_autocast_enabled("cpu") == all_else


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_a_job_gives_the_same_figures_whatever_its_caller_has_switched_on(
    job: str, tmp_path: Path
) -> None:
    wanted = figures_of(JOBS[job](loaded("toy-gpt2"), tmp_path / "plain"))
    with switched(dtype=torch.bfloat16, all_else=True):
        found = figures_of(JOBS[job](loaded("toy-gpt2"), tmp_path / "switched"))
    assert not differences(wanted, found)


@pytest.mark.backend
@pytest.mark.parametrize("job", ["classify_heads", "trace_pipeline", "score_weights, fisher"])
@pytest.mark.parametrize("name", ["toy-gpt2", "toy-qwen2"])
def test_a_default_dtype_of_more_digits_changes_no_figure(
    job: str, name: str, tmp_path: Path
) -> None:
    wanted = figures_of(JOBS[job](loaded(name), tmp_path))
    with switched(dtype=torch.float64, all_else=False):
        found = figures_of(JOBS[job](loaded(name), tmp_path))
    assert not differences(wanted, found)


def test_weights_that_load_in_any_state_are_the_same_and_can_be_differentiated() -> None:
    wanted = mi.score_weights(loaded("toy-gpt2"), TEXTS, layers=[0])
    with switched(dtype=torch.bfloat16, all_else=True):
        model = load_model("toy-gpt2")
    assert not differences(
        figures_of(wanted), figures_of(mi.score_weights(model, TEXTS, layers=[0]))
    )
    with mi.perturbed(model, [WEIGHT], "sign_flip") as n_changed:
        assert n_changed == 1


@pytest.mark.backend
def test_a_model_made_in_inference_mode_is_taken_over_with_weights_of_the_usual_kind() -> None:
    with torch.inference_mode():
        hf_model = tiny_model("llama")
    assert hf_model.model.norm.weight.is_inference()
    model = load_model("made-here", hf_model=hf_model)
    ids = torch.arange(3, 12)[None]
    twin = load_model("made-here-too", hf_model=tiny_model("llama"))
    scores, wanted = (mi.score_weights(each, ids, layers=[0]) for each in (model, twin))
    assert not differences(figures_of(wanted.scores), figures_of(scores.scores))


def test_weights_of_inference_mode_are_refused_by_name_where_they_cannot_be_used() -> None:
    model = load_model("toy-gpt2")
    with torch.inference_mode():
        for module in model.modules():
            for name, weight in module._parameters.items():
                if weight is not None:
                    module._parameters[name] = nn.Parameter(weight.clone(), requires_grad=False)
    with pytest.raises(WeightError, match=r"blocks\.0\.attn\.W_Q was made inside .* load_model"):
        mi.score_weights(model, TEXTS, layers=[0])
    with (
        pytest.raises(WeightError, match="can be neither differentiated nor changed"),
        mi.perturbed(model, [WEIGHT]),
    ):
        pass


def test_the_callers_default_dtype_is_back_once_the_last_of_several_jobs_ends() -> None:
    entered, leave = threading.Barrier(2), threading.Event()

    def job() -> torch.dtype:
        with known_state():
            entered.wait(10)
            leave.wait(10)
            return torch.get_default_dtype()

    torch.set_default_dtype(torch.float64)
    try:
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(job)
            with known_state():
                entered.wait(10)
            leave.set()
            assert other.result(10) == torch.float32
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def written(model: HookedModel) -> str:
    return mi.generate(model, PROMPT, max_new_tokens=6).text


def seen(model: HookedModel) -> Any:
    return mi.record(model, PROMPT, ("resid_post", 3)).tensors["blocks.3.hook_resid_post"]


CONTEXTS: dict[str, Callable[[HookedModel], Any]] = {
    "ablating": lambda model: mi.ablating(model, LAYER_0),
    "perturbed": lambda model: mi.perturbed(
        model, [("blocks.0.mlp.W_out", row, column) for row in range(64) for column in range(64)]
    ),
}


@pytest.mark.backend
@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("name", ["toy-gpt2", "toy-qwen2"])
def test_another_threads_passes_wait_for_a_context_and_see_nothing_of_it(
    name: str, context: str
) -> None:
    model = loaded(name)
    clean, clean_text = seen(model), written(model)
    with ThreadPoolExecutor(2) as pool:
        with CONTEXTS[context](model):
            others: list[Future[Any]] = [pool.submit(seen, model), pool.submit(written, model)]
            assert not wait(others, timeout=0.5).done
            changed, changed_text = seen(model), written(model)  # our own thread's do not wait
        theirs, their_text = (other.result(60) for other in others)
    assert torch.equal(theirs, clean)
    assert their_text == clean_text
    assert not torch.equal(changed, clean)
    assert changed_text != clean_text or context == "perturbed"


def test_a_context_waits_for_another_threads_job() -> None:
    model, order = loaded("toy-gpt2"), []
    running, go_on = threading.Event(), threading.Event()

    def job() -> None:
        with alone_with(model):  # as every job is
            running.set()
            go_on.wait(10)
            order.append("job")

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(job)
        assert running.wait(10)
        threading.Timer(0.3, go_on.set).start()
        with mi.ablating(model, LAYER_0):
            order.append("context")
            seen(model)
        other.result(10)
    assert order == ["job", "context"]


def test_contexts_of_two_models_do_not_wait_for_each_other() -> None:
    one, other = loaded("toy-gpt2"), loaded("toy-qwen2")
    with ThreadPoolExecutor(1) as pool, alone_with(one):
        assert pool.submit(written, other).result(60)


def test_an_error_ends_the_turn() -> None:
    model = loaded("toy-gpt2")
    with pytest.raises(KeyError), mi.ablating(model, LAYER_0):
        raise KeyError("ours")
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(written, model).result(60)


def test_a_generator_that_is_closed_in_another_thread_ends_its_turn_there() -> None:
    model = loaded("toy-gpt2")

    def stream() -> Iterator[str]:
        with mi.ablating(model, LAYER_0):
            yield written(model)

    begun = stream()
    next(begun)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(begun.close).result(60)
        assert pool.submit(written, model).result(60)
    assert written(model)


def test_a_long_wait_is_logged_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(process_state, "PATIENCE", 0.05)
    model = loaded("toy-gpt2")
    with caplog.at_level(logging.WARNING, "mi_toolkit"), ThreadPoolExecutor(1) as pool:
        with alone_with(model):
            other = pool.submit(mi.generate, model, CLEAN, max_new_tokens=1)
            time.sleep(0.3)
        other.result(60)
    assert "Still waiting for toy-gpt2: another thread" in caplog.text


def test_a_job_at_rest_lets_others_at_its_model_and_a_context_does_not() -> None:
    model = nn.Linear(1, 1)

    def taken() -> bool:
        with alone_with(model):
            return True

    with ThreadPoolExecutor(1) as pool, alone_with(model):
        with alone_with(model), others_first(model) as may:
            assert not may  # an ablation that holds would hold for others, too
        with others_first(model) as may:
            assert may
            assert pool.submit(taken).result(timeout=10)
        waiting = pool.submit(taken)
        assert wait([waiting], timeout=0.2).not_done  # it is taken back
    with others_first(model) as may:
        assert not may  # nobody has it
