"""What visitors found is bounded, for all of them and for each, and memory comes back."""

from __future__ import annotations

import gc
import weakref

import psutil
import pytest
import torch

from mi_toolkit.app import context
from mi_toolkit.app.context import Analysis, Sessions, analyse
from mi_toolkit.app.model_pool import held_bytes, return_memory
from mi_toolkit.app.settings import Settings
from mi_toolkit.core.errors import PromptError
from tests.models_here import loaded

LONG = ("Mary and John went to the store " * 18).strip()
MIB = 2**20


def found(prompt: str = LONG) -> Analysis:
    return analyse(
        loaded("toy-gpt2"), "toy-gpt2", prompt, num_beams=1, max_new_tokens=1, settings=Settings()
    )


def resident() -> int:
    gc.collect()
    return_memory()
    return int(psutil.Process().memory_info().rss)


def test_what_is_shared_is_counted_once_and_all_that_is_led_to_is() -> None:
    tensor = torch.zeros(MIB // 4)
    alone = held_bytes(tensor)
    assert MIB < alone < MIB + 1000
    assert held_bytes([tensor, tensor[5:], {"a": tensor.view(2, -1)}]) < alone + 2000
    assert held_bytes({"a": [torch.zeros(MIB // 4)], "b": (tensor,)}) > 2 * MIB


def test_an_analysis_counts_what_it_holds_and_not_its_model() -> None:
    one = found()
    patterns = one.pipeline.attention.patterns
    assert patterns.untyped_storage().nbytes() < held_bytes(one) < 3 * MIB
    assert one.n_bytes > 3 * MIB


@pytest.mark.slow
def test_two_hundred_visitors_stay_within_the_bound_and_memory_comes_back() -> None:
    found()  # what the first run alone takes
    sessions, before = Sessions(40 * MIB), resident()
    for visitor in range(200):
        session = sessions.of(f"visitor {visitor}")
        session.analysis = found()
        sessions.count(session)
        assert sessions.n_bytes <= sessions.limit
    assert resident() - before < 1.2 * sessions.limit
    kept = [each for each in sessions.open if each.analysis is not None]
    assert 20 < len(kept) < 60
    assert kept == list(sessions.open)[-len(kept) :]
    with pytest.raises(PromptError, match="given up to make room for others"):
        sessions.open[0].analysed()
    for visitor in range(200):
        sessions.leave(f"visitor {visitor}")
    kept.clear()
    del session
    assert resident() - before < 0.2 * sessions.limit


def test_who_comes_back_is_not_the_first_to_go() -> None:
    size = held_bytes([found(), {}])
    sessions = Sessions(6 * size)
    for name in ("a", "b", "c", "d", "e"):
        sessions.of(name).analysis = found()
        sessions.count(sessions.of(name))
    sessions.of("a")
    for name in ("f", "g"):
        sessions.of(name).analysis = found()
        sessions.count(sessions.of(name))
    assert sessions.of("a").analysis is not None
    assert sessions.of("b").analysis is None


def test_one_visitor_cannot_fill_what_is_for_all() -> None:
    one = found()
    sessions = Sessions(2 * held_bytes(one))
    session = sessions.of("visitor")
    session.analysis = one
    with pytest.raises(PromptError, match="more memory than this server has for one visitor"):
        sessions.count(session)
    assert session.analysis is None
    assert sessions.n_bytes == 0


def test_pages_that_nobody_closes_are_forgotten_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "MOST_SESSIONS", 3)
    sessions = Sessions()
    first = sessions.of("0")
    for name in ("1", "2", "0", "3"):
        sessions.of(name)
    assert len(sessions.open) == 3
    assert sessions.of("0") is first


def test_what_a_closed_page_found_is_let_go() -> None:
    sessions = Sessions()
    session = sessions.of("visitor")
    session.analysis = found()
    held = weakref.ref(session.analysis)
    sessions.count(session)
    sessions.leave("visitor")
    gc.collect()
    assert held() is None
