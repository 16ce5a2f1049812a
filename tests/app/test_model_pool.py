import threading
import time
from pathlib import Path

import pytest

from mi_toolkit.app.context import ClientDisconnected, Sessions
from mi_toolkit.app.model_pool import ModelPool, model_bytes
from mi_toolkit.core.errors import ModelLoadError
from mi_toolkit.core.model import HookedModel
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


def test_visitors_who_want_the_same_two_models_never_wait_for_each_other() -> None:
    def slow(name: str) -> HookedModel:
        time.sleep(0.2)  # both visitors have begun before either has its second model
        return load_model(name)

    shelf, deadline, had = ModelPool(load=slow), time.monotonic() + 20, []

    def waiting(name: str, place: int) -> None:
        if time.monotonic() > deadline:
            raise ClientDisconnected("waited in vain")

    def borrow(*names: str) -> None:
        with shelf.acquire_together(names, waiting=waiting) as models:
            had.append(sorted(models))

    pair = ("toy-gpt2", "toy-opt")
    threads = [threading.Thread(target=borrow, args=order) for order in (pair, pair[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert had == [list(pair)] * 2


def test_a_model_asked_for_twice_is_lent_once() -> None:
    with ModelPool().acquire_together(["toy-gpt2", "toy-gpt2"]) as models:
        assert list(models) == ["toy-gpt2"]


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
    refused = pytest.raises(ModelLoadError, match=r"takes 2\.0 GiB, and this server has 0\.0 GiB")
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
