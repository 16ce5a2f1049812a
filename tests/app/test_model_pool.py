import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd
import pytest

from mi_toolkit.app.context import AppContext, ClientDisconnected, Job, Lend, Session, Sessions
from mi_toolkit.app.model_pool import ModelPool, model_bytes
from mi_toolkit.app.settings import Settings
from mi_toolkit.attribution.attribute import attribute
from mi_toolkit.core.errors import ModelLoadError
from mi_toolkit.core.model import HookedModel
from mi_toolkit.heads.classify import classify_heads
from mi_toolkit.interventions.effect import ablation_effect
from mi_toolkit.models.load import load_model
from tests.models_here import TOYS


def test_a_model_is_loaded_once_and_lent_again() -> None:
    shelf = ModelPool()
    with shelf.acquire("toy-gpt2") as first:
        pass
    with shelf.acquire("toy-gpt2") as second:
        assert second is first


def test_nobody_else_has_a_model_that_is_lent() -> None:
    shelf = ModelPool()
    inside, most = [0], [0]

    def borrow() -> None:
        with shelf.acquire("toy-gpt2"):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.05)
            inside[0] -= 1

    threads = [threading.Thread(target=borrow) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


def test_two_models_are_lent_at_the_same_time() -> None:
    shelf = ModelPool()
    with shelf.acquire("toy-gpt2") as one, shelf.acquire("toy-opt") as other:
        assert one.cfg.model_name != other.cfg.model_name


def test_who_passes_a_model_on_gets_it_back_after_those_in_line() -> None:
    pool, order = ModelPool(), list[str]()

    def other() -> None:
        with pool.acquire("toy-gpt2"):
            order.append("other")

    with pool.acquire("toy-gpt2"):
        pool.pass_on("toy-gpt2")  # nobody waits
        thread = threading.Thread(target=other)
        thread.start()
        while len(pool._held["toy-gpt2"].line) < 2:
            time.sleep(0.01)
        order.append("before")
        pool.pass_on("toy-gpt2")
        order.append("after")
    thread.join()
    assert order == ["before", "other", "after"]


LONG = "one two three four " * 8


@pytest.mark.parametrize("kind", ["ablation", "attribution"])
def test_a_long_run_lets_others_in_between_its_passes(kind: str) -> None:
    context = AppContext(Settings(), ModelPool())

    def asked(work: Callable[[HookedModel], Any]) -> Job[Any]:
        def job(lend: Lend) -> Any:
            with lend("toy-gpt2") as model:
                return work(model)

        return job

    works: dict[str, Callable[[HookedModel], Any]] = {
        "ablation": lambda model: ablation_effect(
            model, LONG, ["L0H0", "L3H1"], n_random=10, batch_size=1, max_new_tokens=0
        ),
        "attribution": lambda model: attribute(
            model, LONG, steps=10, max_steps=10, batch_size=1, allow_incomplete=True
        ),
    }
    run = partial(context.run, progress=gr.Progress())
    begun, ended = threading.Event(), dict[str, float]()

    def long(model: HookedModel) -> Any:
        begun.set()
        while len(context.pool._held["toy-gpt2"].line) < 2:
            time.sleep(0.01)
        return works[kind](model)

    def long_run() -> None:
        found["long"] = run(asked(long), session=Session())
        ended["long"] = time.monotonic()

    found: dict[str, Any] = {}
    thread = threading.Thread(target=long_run)
    thread.start()
    assert begun.wait(60)
    run(asked(lambda model: classify_heads(model, "Mary and John")), session=Session())
    ended["short"] = time.monotonic()
    thread.join()
    assert ended["short"] < ended["long"]
    with context.pool.acquire("toy-gpt2") as model:  # and its figures are as if it were alone
        alone = works[kind](model)
    pd.testing.assert_frame_equal(found["long"].to_pandas(), alone.to_pandas())


def test_the_least_recently_used_model_makes_room() -> None:
    sizes = {name: model_bytes(load_model(name)) for name in TOYS[:3]}
    first, second, third = TOYS[:3]
    shelf = ModelPool(sizes[first] + sizes[second] + sizes[third] - 1)
    for name in (first, second, first, third):
        with shelf.acquire(name):
            pass
    assert shelf.loaded == (first, third)


def test_a_model_in_use_is_never_given_up() -> None:
    sizes = {"toy-gpt2": 0, "toy-opt": 2**20}
    shelf = ModelPool(2**20, size=lambda name: sizes[name])
    with shelf.acquire("toy-gpt2"):
        with pytest.raises(ModelLoadError, match="Choose a smaller one"), shelf.acquire("toy-opt"):
            pass
        assert shelf.loaded == ("toy-gpt2",)


def test_a_model_too_large_for_the_server_is_refused_before_it_is_read() -> None:
    def never(name: str) -> HookedModel:
        raise AssertionError(name)

    shelf = ModelPool(2**20, load=never, size=lambda name: 2**31)
    refused = pytest.raises(ModelLoadError, match=r"takes 2\.0 GiB, and this server has 1 MiB")
    with refused, shelf.acquire("gpt2-xl"):
        pass
    assert shelf.loaded == ()


def test_a_model_that_does_not_load_can_be_asked_for_again(tmp_path: Path) -> None:
    shelf = ModelPool(size=lambda name: 0)
    for _ in range(2):
        with pytest.raises(ModelLoadError, match=r"no config\.json"), shelf.acquire(str(tmp_path)):
            pass


def test_who_has_left_waits_no_longer() -> None:
    pool, sessions = ModelPool(), Sessions()
    told: list[str] = []

    def wait() -> None:
        try:
            with pool.acquire("toy-gpt2", waiting=lambda name, place: session.check_wanted()):
                told.append("lent")
        except ClientDisconnected:
            told.append("left")

    session = sessions.of("visitor")
    with pool.acquire("toy-gpt2"):
        waiting = threading.Thread(target=wait)
        waiting.start()
        sessions.leave("visitor")
        waiting.join(timeout=5)
    assert told == ["left"]


def test_a_session_that_left_is_forgotten() -> None:
    sessions = Sessions()
    session = sessions.of("visitor")
    assert sessions.of("visitor") is session
    sessions.leave("visitor")
    with pytest.raises(ClientDisconnected):
        session.check_wanted()
    sessions.of("visitor").check_wanted()


def test_requests_without_a_session_share_nothing() -> None:
    sessions = Sessions()
    assert sessions.of(None) is not sessions.of(None)


def test_who_came_first_has_the_model_first_and_each_knows_their_place() -> None:
    pool, order, places = ModelPool(), [], []
    in_line = threading.Semaphore(0)

    def borrow(visitor: int) -> None:
        def waiting(name: str, place: int) -> None:
            if (visitor, name, place) not in places:
                places.append((visitor, name, place))
                in_line.release()

        with pool.acquire("toy-gpt2", waiting=waiting):
            order.append(visitor)

    with pool.acquire("toy-gpt2"):
        threads = [threading.Thread(target=borrow, args=[visitor]) for visitor in range(3)]
        for thread in threads:
            thread.start()
            assert in_line.acquire(timeout=10)
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2]
    assert places[:3] == [(visitor, "toy-gpt2", visitor + 2) for visitor in range(3)]


def test_stop_ends_what_began_before_it_and_nothing_else() -> None:
    session = Sessions().of("visitor")
    begun = session.stops
    session.check_wanted(begun)
    session.stops += 1
    with pytest.raises(ClientDisconnected, match="Stopped"):
        session.check_wanted(begun)
    session.check_wanted(session.stops)
