"""Ctrl-C while something is being set up or taken back waits until that is done.

Whatever a job changes for a while (hooks, an attention function, weights, a file's draft) is a
context, here, in TransformerLens and in torch. A KeyboardInterrupt in the middle of its `__enter__`
or `__exit__` would leave half of the change, with nobody to take it back. So inside
`contexts_whole` a signal that comes there is put off, and comes again a moment later. Anywhere else
it interrupts at once, and the contexts around it take back what they changed.
"""

from __future__ import annotations

import _thread
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

AGAIN = 0.002
"""Seconds until a signal that was put off comes again."""

_CHANGING = frozenset({"__enter__", "__exit__"})
"""The names of functions in which a change is being made or taken back."""

_WORKING = frozenset({"Module._call_impl", "Condition.wait", "one_job.<locals>.run"})
"""Functions that are interrupted wherever they are called from: a pass, a wait for another thread,
a job. They may take long, and end well by an exception."""


@contextmanager
def contexts_whole() -> Iterator[None]:
    """Inside, Ctrl-C waits while a context is being entered or left.

    For the main thread, which alone is interrupted, and where Python handles the signal.
    """
    before = signal.getsignal(signal.SIGINT)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or not callable(before) or isinstance(before, _PuttingOff):
        yield
        return
    handler = _PuttingOff(before)
    signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        # A generator may be closed in another thread, and somebody may have set a handler inside.
        current: object = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is threading.main_thread() and current is handler:
            signal.signal(signal.SIGINT, before)
            handler.wait()


class _PuttingOff:
    """Handles a signal as `before` does, once no context is being entered or left."""

    def __init__(self, before: Any) -> None:
        self._before = before
        self._one_is_coming = threading.Lock()
        self._n_put_off = 0
        self._arrived: list[int] = []

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not _is_changing(frame):
            self._before(number, frame)
        elif self._one_is_coming.acquire(blocking=False):
            self._n_put_off += 1
            # No `threading.Thread`, whose own lock the interrupted code may hold.
            _thread.start_new_thread(self._come_again, (number,))

    def _come_again(self, number: int) -> None:
        time.sleep(AGAIN)
        self._one_is_coming.release()  # first: it may be put off another time
        _thread.interrupt_main(signal.Signals(number))
        self._arrived.append(number)

    def wait(self) -> None:
        """Wait for a signal that was put off: it comes here, and not somewhere later."""
        while len(self._arrived) < self._n_put_off:
            time.sleep(AGAIN)


def _is_changing(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code.co_qualname not in _WORKING:
        if frame.f_code.co_name in _CHANGING:
            return True
        frame = frame.f_back
    return False
