"""Progress: bars on standard error, and whoever else wants to be told how far the work is."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from mi_toolkit.core.process_state import others_first

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


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Within it, `watcher` is told before every item of whatever is tracked."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


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
) -> Iterator[Item]:
    """The items, with a bar and a time to go.

    Args:
        items: what to pass through.
        total: how many there are; None where that is not known.
        label: what is being done.
        unit: what one item is.
        show: None for a bar where somebody looks (a terminal or a notebook), and only once the
            work has taken two seconds.
        at_rest: a model that is as it was between two items, and that nothing but this thread's one
            job holds: whoever watches may let others at it there.
    """
    watcher = _watcher.get()
    if watcher is not None:
        items = _reported(items, watcher, label, total, at_rest)
    if show is False or (show is None and (watcher is not None or not _watched())):
        yield from items
        return
    # Not tqdm.auto: in a notebook without ipywidgets it warns.
    from tqdm import tqdm

    delay = 2.0 if show is None else 0.0
    yield from tqdm(items, total=total, desc=label, unit=unit, delay=delay, leave=False)


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
    items: Iterable[Item], watcher: Watcher, label: str, total: int | None, at_rest: Any
) -> Iterator[Item]:
    for done, item in enumerate(items):
        watcher.report(label, done, total)
        if at_rest is not None and done:
            with others_first(at_rest) as may:
                if may:
                    watcher.make_way()
        yield item


def _watched() -> bool:
    return sys.stderr.isatty() or "ipykernel" in sys.modules
