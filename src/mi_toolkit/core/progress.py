"""Progress: bars on standard error, and whoever else wants to know how far the work is."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Item = TypeVar("Item")

Watcher = Callable[[str, int, int | None], None]
"""Told what is being done, how many items of it are, and how many there will be, if known."""

_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Within it, `watcher` is called before every item of whatever is tracked.

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
    items: Iterable[Item], watcher: Watcher, label: str, total: int | None
) -> Iterator[Item]:
    for done, item in enumerate(items):
        watcher(label, done, total)
        yield item


def _watched() -> bool:
    return sys.stderr.isatty() or "ipykernel" in sys.modules
