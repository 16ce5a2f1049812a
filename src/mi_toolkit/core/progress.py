"""How far the work is, for whoever looks: a terminal, a notebook, a log, or a watcher.

1. `track` passes items through. Shown is nothing for the first two seconds, then a line with the
   time so far and the time to go, drawn again while the work runs, also within a long item.
2. Work tracked inside an item of other tracked work is a share of that item: one line for a job.
   `part_done` does the same for a loop that is no `track`.
3. A terminal gets a bar, a notebook one output that is drawn over and emptied at the end, a file
   (`progress=True`) a line of its own every half minute. Otherwise the log says it, at level INFO.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import Any, Protocol, TypeVar

from markupsafe import Markup

logger = logging.getLogger("mi_toolkit")

Item = TypeVar("Item")


class Watcher:
    """Whoever wants to know how far the work is, may end it, and may let others go first."""

    def report(self, label: str, done: int, total: int | None) -> None:
        """Told what is being done, how many items of it are, and how many there will be, if known.

        What it raises ends the work there, cleanly: that is how a page that was closed stops it.
        """

    def check(self) -> None:
        """Asked more often, within a pass: what it raises ends the work, too."""

    def make_way(self) -> None:
        """Called where other threads may have the model; the work goes on when it returns."""


_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)

PATIENCE = 2.0
"""Seconds of work before anything is shown."""


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Within it, `watcher` is told before every item of whatever is tracked."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


class _Work:
    """Tracked work: how many of its items are done, and how far the present one is."""

    def __init__(self, label: str, unit: str, total: int | None, outer: _Work | None) -> None:
        self.label, self.unit, self.total, self.outer = label, unit, total, outer
        self.began = self.moved = time.monotonic()
        self.done = 0
        self.share = 0.0

    def move(self, share: float) -> None:
        """Say which share of the present item is done; the work around it moves along."""
        self.share, self.moved = min(max(share, 0.0), 1.0), time.monotonic()
        if self.outer is not None and self.total:
            self.outer.move((self.done + self.share) / self.total)

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.began

    @property
    def part(self) -> float | None:
        """What part of all of it is done, 0 to 1; None where that is not known."""
        return min((self.done + self.share) / self.total, 1.0) if self.total else None

    @property
    def to_go(self) -> float | None:
        """Seconds to go, by how long what is done took until it last moved; None until it did."""
        if not self.part:
            return None
        took = self.moved - self.began
        return max(took / self.part - self.seconds, 0.0)

    def __str__(self) -> str:
        """In words, with the time to go once some of it is done."""
        of = "" if self.total is None else f" of {self.total}"
        words = f"{self.label}: {self.done}{of} ({self.unit}), {clock(self.seconds)} so far"
        if self.done:
            words += f", {60 * self.done / (self.moved - self.began):,.3g} a minute"
        return words if self.to_go is None else f"{words}, about {clock(self.to_go)} to go"


_under_way: ContextVar[_Work | None] = ContextVar("under_way", default=None)


def part_done(share: float) -> None:
    """Say that this share of the item in hand is done, 0 to 1, where work is tracked."""
    work = _under_way.get()
    if work is not None:
        work.move(share)


@contextmanager
def working(
    *, total: int | None, label: str, unit: str, show: bool | None
) -> Iterator[Callable[[], None]]:
    """`track` for items that nobody hands over: what it gives is called after each of them."""
    watcher, work = _watcher.get(), _Work(label, unit, total, _under_way.get())

    def done() -> None:
        if watcher is not None:
            watcher.report(label, work.done, total)
        work.done += 1
        work.move(0.0)

    token = _under_way.set(work)
    try:
        with _drawn(work, show):
            yield done
    finally:
        _under_way.reset(token)


@contextmanager
def own_progress() -> Iterator[None]:
    """After it, what is under way is what was before, also where a loop was left by an error."""
    token = _under_way.set(_under_way.get())
    try:
        yield
    finally:
        _under_way.reset(token)


def check_wanted() -> None:
    """Nothing, unless the watcher ends the work here."""
    watcher = _watcher.get()
    if watcher is not None:
        watcher.check()


def track(
    items: Iterable[Item],
    *,
    total: int | None,
    label: str,
    unit: str,
    show: bool | None,
    at_rest: Any = None,
    done_after: Callable[[Item], float] | None = None,
) -> Iterator[Item]:
    """The items, and while they pass a line with the time so far and to go.

    Args:
        items: what to pass through.
        total: how many there are; None where that is not known.
        label: what is being done.
        unit: what one item is.
        show: True for a line wherever standard error goes, False for none; None where somebody
            looks (a terminal or a notebook). Within other tracked work there is no line of its own.
        at_rest: a model that is as it was between two items, and that nothing but this thread's one
            job holds: whoever watches may let others at it there.
        done_after: how much of `total` is done once an item is; None where an item is one of it.
    """
    watcher, work = _watcher.get(), _Work(label, unit, total, _under_way.get())
    if watcher is not None:
        items = _reported(items, watcher, work, at_rest)
    with _drawn(work, show):
        for item in items:
            token = _under_way.set(work)
            try:
                yield item
            finally:
                _under_way.reset(token)
            done = work.done + 1 if done_after is None else done_after(item)
            work.done = int(done)
            work.move(done - work.done)


class _Sink(Protocol):
    """Where a line about work goes."""

    interval: float
    """Seconds from one drawing to the next."""

    def draw(self, work: _Work) -> None:
        """Show how far it is."""

    def close(self, work: _Work) -> None:
        """Take away what was shown, where that can be, or say how it ended."""


@contextmanager
def _drawn(work: _Work, show: bool | None) -> Iterator[None]:
    """Inside, the work is drawn again and again by a thread of its own."""
    sink = _sink_for(show) if work.outer is None else None
    if sink is None:
        yield
        return
    ended = threading.Event()

    def draw() -> None:
        wait = PATIENCE
        while not ended.wait(wait):
            sink.draw(work)
            wait = sink.interval

    # In the context of the work: a notebook finds by it the cell that its output belongs to.
    thread = threading.Thread(target=copy_context().run, args=(draw,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        sink.close(work)


def _sink_for(show: bool | None) -> _Sink | None:
    if show is False or (show is None and _watcher.get() is not None):
        return None
    if _in_a_kernel():
        return _Cell()
    if sys.stderr.isatty():
        return _Bar()
    if show:
        return _Lines(lambda line: sys.stderr.write(f"{line}\n"))
    return _Lines(logger.info) if logger.isEnabledFor(logging.INFO) else None


def _in_a_kernel() -> bool:
    """Whether this is a notebook's process: it may have imported ipykernel without being one."""
    ipython: Any = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


class _Bar:
    """A bar in a terminal, gone once the work is done."""

    interval = 0.2

    def __init__(self) -> None:
        self._bar: Any = None

    def draw(self, work: _Work) -> None:
        if self._bar is None:
            # Not tqdm.auto: in a notebook without ipywidgets it warns.
            from tqdm import tqdm

            whole = 1.0 if work.total else None
            # With a delay it does not draw before it knows how; nor would it clear what it drew.
            self._bar = tqdm(total=whole, desc=work.label, leave=False, delay=1.0)
            self._bar.delay = 0.0
            self._bar.start_t -= work.seconds
        if work.total:
            to_go = "?" if work.to_go is None else self._bar.format_interval(work.to_go)
            counted = f"{work.done}/{work.total} {work.unit} [{{elapsed}}<{to_go}]"
            self._bar.bar_format = f"{{l_bar}}{{bar}}| {counted}"
        else:
            self._bar.bar_format = f"{{desc}}: {work.done} {work.unit} [{{elapsed}}]"
        self._bar.n = work.done if work.part is None else work.part
        self._bar.refresh()

    def close(self, work: _Work) -> None:
        if self._bar is not None:
            self._bar.close()


_KNOWN = '<progress value="{part:.3f}"></progress> {}'


class _Cell:
    """One output of a notebook's cell, with or without widgets; empty once the work is done."""

    interval = 0.5

    def __init__(self) -> None:
        self._shown: Any = None

    def draw(self, work: _Work) -> None:
        known = "<progress></progress> {}" if work.part is None else _KNOWN
        self._show(str(work), Markup(known).format(str(work), part=work.part))

    def close(self, work: _Work) -> None:
        if self._shown is not None:
            self._show("", "")

    def _show(self, plain: str, page: str) -> None:
        from IPython import display as notebook

        display: Any = notebook.display
        seen = {"text/plain": plain, "text/html": page}
        if self._shown is None:
            self._shown = display(seen, raw=True, display_id=True)
        else:
            self._shown.update(seen, raw=True)


class _Lines:
    """A line now and then where nothing can be drawn over."""

    interval = 30.0

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write, self._begun = write, False

    def draw(self, work: _Work) -> None:
        self._begun = True
        self._write(str(work))

    def close(self, work: _Work) -> None:
        """What was written stays, and how it ended is added."""
        if self._begun:
            self.draw(work)


def clock(seconds: float) -> str:
    """A time as people read it.

    >>> clock(7), clock(100), clock(7_265)
    ('7 s', '1:40 min', '2:01 h')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02} h"


def import_bars() -> None:
    """In a notebook, import the bars that transformers and TransformerLens draw there.

    Without ipywidgets that import warns, once; plain bars are drawn all the same.
    """
    if "ipykernel" not in sys.modules:
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")
        import tqdm.auto  # noqa: F401


def _reported(items: Iterable[Item], watcher: Watcher, work: _Work, at_rest: Any) -> Iterator[Item]:
    for number, item in enumerate(items):
        watcher.report(work.label, work.done, work.total)
        if at_rest is not None and number:
            # Imported here: it imports torch, and this module is there before torch is.
            from mi_toolkit.core.process_state import others_first

            with others_first(at_rest) as may:
                if may:
                    watcher.make_way()
        yield item
