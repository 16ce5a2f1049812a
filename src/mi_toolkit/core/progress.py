"""Progress: bars on standard error, and whoever else wants to be told how far the work is."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, TypeVar

logger = logging.getLogger("mi_toolkit")

Item = TypeVar("Item")

Watcher = Callable[[str, int, int | None], None]
"""Told what is being done, how many items of it are, and how many there will be, if known."""

_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Within it, `watcher` is told before every item of whatever is tracked.

    What it raises ends the work there, cleanly: that is how a page that was closed stops it.
    """
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def track(
    items: Iterable[Item], *, total: int | None, label: str, unit: str, show: bool | None
) -> Iterator[Item]:
    """The items, with a bar and a time to go.

    Args:
        items: what to pass through.
        total: how many there are; None where that is not known.
        label: what is being done.
        unit: what one item is.
        show: None for a bar where somebody looks (a terminal or a notebook), and only once the
            work has taken two seconds.
    """
    watcher = _watcher.get()
    if watcher is not None:
        items = _reported(items, watcher, label, total)
    if show is False or (show is None and (watcher is not None or not _watched())):
        yield from items
        return
    delay = 2.0 if show is None else 0.0
    yield from _bar(items, total=total, desc=label, unit=unit, delay=delay, leave=False)


def _bar(items: Iterable[Item] | None = None, **look: Any) -> Any:
    # Not tqdm.auto: in a notebook without ipywidgets it warns.
    from tqdm import tqdm

    return tqdm(items, **look)


def tally(
    finished: Iterable[Item], *, total: int, label: str, unit: str, show: bool | None
) -> Iterator[Item]:
    """The items as they are finished, with how many in a minute, and the time to go.

    As a bar where somebody looks; elsewhere as lines of the log, one a minute and one at the end.

    Args:
        finished: items, in the order in which they are finished.
        total: how many there will be.
        label: what is being done.
        unit: what one item is.
        show: a bar; None where somebody looks; False for the log.
    """
    watcher = _watcher.get()
    start = time.monotonic()
    shown = _watched() if show is None and watcher is None else bool(show)
    bar = None
    if shown:
        form = "{desc} |{bar}| {n_fmt} of {total_fmt}{postfix}"
        bar = _bar(total=total, desc=label, bar_format=form, leave=False)
    told = start
    try:
        for done, item in enumerate(finished, 1):
            if watcher is not None:
                watcher(label, done - 1, total)
            yield item
            now = time.monotonic()
            words = _pace(done, total, now - start, unit)
            if bar is not None:
                bar.set_postfix_str(words, refresh=False)
                bar.update()
            elif now - told >= LOG_EVERY or done == total:
                told = now
                logger.info("%s: %d of %d%s", label, done, total, f" {unit}s, {words}")
    finally:
        if bar is not None:
            bar.close()


LOG_EVERY = 60.0
"""Seconds between two lines of the log."""


def _pace(done: int, total: int, seconds: float, unit: str) -> str:
    """`12.0 jobs a minute, 1:30 to go`."""
    per_minute = 60 * done / max(seconds, 1e-3)
    left = timedelta(seconds=round((total - done) * seconds / done))
    return f"{per_minute:,.1f} {unit}s a minute, {left} to go"


def import_bars() -> None:
    """In a notebook, import the bars that transformers and TransformerLens draw there.

    Without ipywidgets that import warns, once; plain bars are drawn all the same.
    """
    if "ipykernel" not in sys.modules:
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")
        import tqdm.auto  # noqa: F401


def _reported(
    items: Iterable[Item], watcher: Watcher, label: str, total: int | None
) -> Iterator[Item]:
    for done, item in enumerate(items):
        watcher(label, done, total)
        yield item


def _watched() -> bool:
    return sys.stderr.isatty() or "ipykernel" in sys.modules
