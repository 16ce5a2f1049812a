"""Ctrl-C while something is being taken back waits until that is done."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from mi_toolkit.core.interrupts import contexts_whole
from mi_toolkit.core.model import attached


class Handle:
    """A hook whose removal takes its time: long enough for Ctrl-C."""

    removed: list[Handle]

    def __init__(self, removed: list[Handle]) -> None:
        self.removed = removed

    def remove(self) -> None:
        if not self.removed:
            signal.raise_signal(signal.SIGINT)
        self.removed.append(self)


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    """Ctrl-C as in a terminal: a shell starts what runs in the background without it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


def test_all_hooks_are_removed_before_ctrl_c_comes_through() -> None:
    removed: list[Handle] = []
    with (
        pytest.raises(KeyboardInterrupt),
        contexts_whole(),
        attached(Handle(removed) for _ in range(3)),
    ):
        pass
    assert len(removed) == 3


def test_without_it_they_are_not() -> None:
    removed: list[Handle] = []
    with pytest.raises(KeyboardInterrupt):
        Handle(removed).remove()
    assert removed == []
